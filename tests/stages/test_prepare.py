"""prepare: raw rows in, clean token packs out, and every row accounted for."""

import itertools
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_folders import CHATML, Row, base_folder, chat, lines, params, raw_folder, tickets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from slipway.artifacts import Manifest
from slipway.errors import StageError, UsageError
from slipway.params import SplitParams
from tasks.prepare import prepare

SPLITS = ("train", "validation", "test")


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / name).to_pylist()
    return rows


def everything(folder: Path) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in table(folder, f"rows/{split}.parquet")]


def run(tmp_path: Path, rows: list[Row | str], test: list[Row | str] | None = None, **changes: Any) -> Path:
    base = tmp_path / "base"
    if not base.exists():
        base_folder(base)
    for old in ("raw", "prepared"):
        shutil.rmtree(tmp_path / old, ignore_errors=True)
    prepare(params(**changes), raw_folder(tmp_path / "raw", rows, test), base, tmp_path / "prepared")
    return tmp_path / "prepared"


def drops(folder: Path) -> dict[str, int]:
    return dict(Counter(drop["reason"] for drop in table(folder, "drops.parquet") if drop["action"] == "dropped"))


def test_sample_like_rows_come_out_whole(tmp_path: Path) -> None:
    out = run(tmp_path, tickets(120), tickets(20, seed=9))
    manifest = Manifest.verified(out)
    counts = {split: len(table(out, f"rows/{split}.parquet")) for split in SPLITS}
    assert manifest.facts["rows"] == counts
    assert counts["train"] > 80 and counts["test"] == 20
    row = table(out, "rows/train.parquet")[0]
    assert row["prompt"].endswith("<|im_start|>assistant\n")
    assert row["answer"].startswith(f"intent: {row['label']}\n")
    assert row["source_file"] == "data-00000-rows.jsonl" and row["source_row"] >= 1
    card = json.loads((out / "card.json").read_text())
    assert card["rows_in"] == 140 and card["overlap"] == {"train_test": 0, "train_validation": 0, "validation_test": 0}


def test_tokens_decode_to_the_rows_and_only_answers_carry_loss(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    out = run(tmp_path, tickets(60))
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    arrays, rows = load_file(out / "tokens" / "train.safetensors"), table(out, "rows/train.parquet")
    assert arrays["input_ids"].dtype == np.int32 and arrays["loss"].dtype == np.uint8
    assert len(arrays["documents"]) == len(rows) + 1 > 20
    for index, row in enumerate(rows):
        here = slice(arrays["documents"][index], arrays["documents"][index + 1])
        ids, loss = arrays["input_ids"][here], arrays["loss"][here].astype(bool)
        assert len(ids) == row["tokens"]
        learnt = tokenizer.decode(ids[loss].tolist(), skip_special_tokens=False)
        assert learnt == row["answer"] + "<|im_end|>"
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False).startswith(row["prompt"])


def test_packs_hold_every_document_once_within_max_length(tmp_path: Path) -> None:
    out = run(tmp_path, tickets(80), max_length=400)
    found = 0
    for split in ("train", "validation"):
        arrays = load_file(out / "tokens" / f"{split}.safetensors")
        lengths, offsets = np.diff(arrays["documents"]), arrays["pack_offsets"]
        assert sorted(arrays["packs"].tolist()) == list(range(len(lengths)))
        for start, end in itertools.pairwise(offsets):
            found += 1
            assert end > start and lengths[arrays["packs"][start:end]].sum() <= 400
    assert found > 5


def test_multi_turn_rows_carry_loss_on_every_answer(tmp_path: Path) -> None:
    turns = [("system", "be brief"), ("user", "hello"), ("assistant", "one"), ("user", "more"), ("assistant", "two")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    out = run(tmp_path, [row], split=SplitParams(validation=0, test=0, seed=1))
    arrays = load_file(out / "tokens" / "train.safetensors")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    learnt = tokenizer.decode(arrays["input_ids"][arrays["loss"].astype(bool)].tolist(), skip_special_tokens=False)
    assert learnt == "one<|im_end|>two<|im_end|>"


def test_the_three_shapes_become_conversations(tmp_path: Path) -> None:
    rows: list[Row | str] = [
        chat("What is red?", "A colour."),
        {"prompt": "What is a dog?", "completion": "An animal.", "label": "zoo"},
        {"prompt": "What is iron?", "chosen": "A metal.", "rejected": "A plant."},
        {
            "chosen": [{"role": "user", "content": "What is rain?"}, {"role": "assistant", "content": "Water."}],
            "rejected": [{"role": "user", "content": "What is rain?"}, {"role": "assistant", "content": "Sand."}],
        },
    ]
    out = run(tmp_path, rows)
    found = {row["answer"]: row for row in everything(out)}
    assert set(found) == {"A colour.", "An animal.", "A metal.", "Water."}
    assert found["An animal."]["label"] == "zoo"
    assert found["A metal."]["rejected"] == "A plant." and found["Water."]["rejected"] == "Sand."
    assert found["A colour."]["rejected"] is None


BAD: list[tuple[str, Row | str]] = [
    ("broken_json", '{"messages": ['),
    ("duplicate_key", '{"prompt": "a b c", "prompt": "d", "completion": "e"}'),
    ("not_finite", '{"prompt": "a b", "completion": "c", "score": NaN}'),
    ("not_finite", '{"prompt": "a b", "completion": "c", "score": 1e999}'),
    ("not_an_object", "[1, 2]"),
    ("too_deep", '{"prompt": "a", "completion": "b", "x": ' + "[" * 60 + "]" * 60 + "}"),
    ("too_deep", '{"prompt": "a", "completion": "b", "x": ' + "[" * 40_000 + "]" * 40_000 + "}"),
    ("missing_field", {"prompt": "a question"}),
    ("missing_field", {"text": "neither"}),
    ("missing_field", {"messages": []}),
    ("wrong_type", {"prompt": 7, "completion": "x"}),
    ("wrong_type", {"messages": "hello"}),
    ("wrong_role", {"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]}),
    ("missing_answer", {"messages": [{"role": "user", "content": "x"}]}),
    ("empty_content", {"prompt": "a", "completion": " \n"}),
    ("formula", {"prompt": "=cmd|' /C calc'!A0", "completion": "x"}),
    ("formula", {"prompt": "fine", "completion": '=HYPERLINK("http://example.com")'}),
    ("formula", {"prompt": "fine", "completion": "x", "label": "@SUM(1+1)"}),
    ("bad_text", '{"prompt": "half \\ud800", "completion": "x"}'),
    ("too_large", {"prompt": "word " * 1000, "completion": "x"}),
    ("special_token", {"prompt": "close it<|im_end|> now", "completion": "x"}),
]


def test_case_E1_every_bad_row_is_dropped_by_name_and_row_number(tmp_path: Path) -> None:
    good = tickets(30)
    rows: list[Row | str] = [*good, *(row for _, row in BAD)]
    # Deep JSON needs room to be too deep before it is too large.
    out = run(tmp_path, rows, max_row_bytes=90_000)
    found = {d["source_row"]: d for d in table(out, "drops.parquet") if d["action"] == "dropped"}
    for number, (reason, _) in enumerate(BAD, start=31):
        expected = "missing_field" if reason == "too_large" else reason
        if reason != "too_large":
            assert (number, found[number]["reason"]) == (number, expected)
            assert found[number]["detail"]
    assert len(BAD) >= 20
    out = run(tmp_path, rows, max_row_bytes=4_000)
    assert drops(out)["too_large"] == 2  # the long row and the one of 40,000 brackets


def test_case_E1_one_row_of_100_megabytes_is_dropped_without_being_held(tmp_path: Path) -> None:
    import tracemalloc

    raw = raw_folder(tmp_path / "raw", tickets(20))
    with (raw / "data-00000-rows.jsonl").open("a") as stream:
        stream.write('{"prompt": "')
        for _ in range(100):
            stream.write("x" * 1_000_000)
        stream.write('", "completion": "y"}\n')
    Manifest.write(raw, facts={"source": "test", "roles": {"data-00000-rows.jsonl": "data"}})
    tracemalloc.start()
    prepare(params(), raw, base_folder(tmp_path / "base"), tmp_path / "prepared")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000
    (drop,) = [d for d in table(tmp_path / "prepared", "drops.parquet") if d["reason"] == "too_large"]
    assert drop["source_row"] == 21 and "100,000,0" in drop["detail"] and len(drop["content"]) == 500


def test_personal_data_never_stands_in_any_output(tmp_path: Path) -> None:
    secret = "anna.larsen@example.com"
    rows: list[Row | str] = [
        *tickets(20),
        chat(f"please write to {secret}", "done"),
        f'{{"prompt": "broken, {secret}',
        {"messages": [{"role": f"{secret}", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ]
    out = run(tmp_path, rows)
    assert any("<EMAIL>" in row["prompt"] for row in everything(out))
    texts = json.dumps(everything(out) + table(out, "drops.parquet")) + (out / "card.json").read_text()
    assert "<EMAIL>" in texts and secret not in texts
    altered = [d for d in table(out, "drops.parquet") if d["action"] == "altered"]
    assert [(d["source_row"], d["reason"], d["detail"]) for d in altered] == [(21, "personal_data", "email 1")]


def test_duplicates_conflicts_and_leaks_go(tmp_path: Path) -> None:
    first, held = tickets(40), tickets(10, seed=9)
    prompt = first[0]["messages"][0]["content"]
    leaked = held[0]["messages"][0]["content"]
    long_leak = f"{leaked} And here is something quite different that was never asked, twelve words more."
    rows: list[Row | str] = [
        *first,
        first[3],
        chat(prompt, "intent: other"),
        chat(prompt.upper(), "intent: again"),
        held[1],
        chat(long_leak, "x"),
    ]
    out = run(tmp_path, rows, held)
    assert drops(out) == {"exact_duplicate": 1, "conflict": 1, "near_duplicate": 1, "leaked_test": 2}
    assert len(table(out, "rows/test.parquet")) == 10


def test_adding_rows_moves_no_other_row(tmp_path: Path) -> None:
    def splits(count: int) -> dict[str, str]:
        out = run(tmp_path, tickets(count))
        return {row["id"]: split for split in SPLITS for row in table(out, f"rows/{split}.parquet")}

    small, large = splits(60), splits(120)
    assert len(small) >= 55 and len(set(small.values())) == 3
    assert all(large.get(id, split) == split for id, split in small.items())
    assert len(small.keys() & large.keys()) >= 50


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    rows: list[Row | str] = [*tickets(40), *(row for _, row in BAD)]
    one = Manifest.load(run(tmp_path, rows) / "manifest.json")
    assert Manifest.load(run(tmp_path, rows) / "manifest.json") == one


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_rows_in_are_rows_out_plus_drops(tmp_path: Path, seed: int, tests: int) -> None:
    rng = random.Random(seed)
    clean = tickets(30, seed)
    rows: list[Row | str] = [*clean, *rng.choices(clean, k=5), *(row for _, row in rng.choices(BAD, k=8)), " "]
    rng.shuffle(rows)
    held = tickets(tests * 3, seed + 1) if tests else None
    rows += (held or [])[:2]
    out = run(tmp_path, rows, held)
    card = json.loads((out / "card.json").read_text())
    rows_in = len(rows) - 1 + len(held or [])  # a blank line is no row
    assert card["rows_in"] == rows_in
    assert card["rows_out"] == len(everything(out))
    assert rows_in == len(everything(out)) + sum(drops(out).values())
    assert card["dropped"] == dict(sorted(drops(out).items()))


def test_long_rows_are_dropped_and_too_long_a_sequence_is_refused(tmp_path: Path) -> None:
    out = run(tmp_path, [*tickets(20), chat("why " * 900, "because")])
    assert drops(out) == {"too_long": 1}
    with pytest.raises(StageError, match=r"max_length is 1024, more than the 512 tokens"):
        run(tmp_path, [*tickets(3)], max_length=1024)


def test_nothing_left_names_the_biggest_reason(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no training row is left of 4: most were dropped as empty_content \(3\)"):
        run(tmp_path, [*[{"prompt": "a", "completion": ""}] * 3, '{"x": '])


def test_a_base_without_tokenizer_is_refused(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    (base / "tokenizer.json").unlink()
    Manifest.write(base, facts={"max_length": 512})
    with pytest.raises(StageError, match=r"has no tokenizer\.json"):
        run(tmp_path, [*tickets(3)])


@pytest.mark.parametrize(("pattern", "why"), [("(", "no regular expression"), ("intent", "has no group")])
def test_a_label_pattern_that_cannot_work_is_refused(tmp_path: Path, pattern: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        run(tmp_path, [*tickets(3)], label_pattern=pattern)


def test_case_A9_a_torn_file_is_named_with_its_offset(tmp_path: Path) -> None:
    out = run(tmp_path, [*tickets(12)])
    found = 0
    for name in ("manifest.json", "card.json", "drops.parquet", "rows/test.parquet", "tokens/train.safetensors"):
        path, whole = out / name, (out / name).read_bytes()
        step = 1 if len(whole) < 2_000 else len(whole) // 300
        for size in [*range(0, len(whole) - 1, step), len(whole) - 2]:
            path.write_bytes(whole[:size])
            with pytest.raises(StageError, match=rf"{path.name}.*byte {'' if name == 'manifest.json' else size}"):
                Manifest.verified(out)
            found += 1
        path.write_bytes(whole)
    assert found > 1_000
    assert Manifest.verified(out).facts["rows"]


def test_fallback_template_begins_once_and_ends_each_answer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    base = base_folder(tmp_path / "base", template=None, adds_bos=True)
    out = run(tmp_path, [*tickets(10)])
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    arrays = load_file(out / "tokens" / "train.safetensors")
    ids = arrays["input_ids"][: arrays["documents"][1]].tolist()
    assert ids.count(tokenizer.token_to_id("<s>")) == 1 and ids[0] == tokenizer.token_to_id("<s>")
    assert ids[-1] == tokenizer.token_to_id("</s>") and arrays["loss"][arrays["documents"][1] - 1] == 1
    prompt = table(out, "rows/train.parquet")[0]["prompt"]
    assert prompt.startswith("<s>User:\n") and prompt.endswith("\n\nAssistant:\n")
    assert json.loads((out / "card.json").read_text())["chat_template"] == "fallback"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("special_tokens_map.json", {"eos_token": {"content": "</s>"}}),
        ("generation_config.json", {"eos_token_id": [3, 1]}),
        ("config.json", {"eos_token_id": 3}),
        (None, {}),
        ("config.json", {"eos_token_id": 600_000}),
        ("special_tokens_map.json", {"eos_token": "<|never heard of|>"}),
    ],
)
def test_the_fallback_template_finds_the_end_token_wherever_a_base_tells_it(
    tmp_path: Path, name: str | None, told: dict[str, Any]
) -> None:
    base = base_folder(tmp_path / "base", template=None)
    (base / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    if name is not None:
        (base / name).write_text(json.dumps(told))
    Manifest.write(base, facts={"max_length": 512})
    if name is None or "never" in str(told) or "600000" in str(told):
        with pytest.raises(StageError, match=r"no chat template and .*end-of-text token.*; name an eos_token"):
            run(tmp_path, [*tickets(10)])
        return
    arrays = load_file(run(tmp_path, [*tickets(10)]) / "tokens" / "train.safetensors")
    ends = arrays["documents"][1:] - 1
    assert len(ends) > 3 and set(arrays["input_ids"][ends].tolist()) == {3} and arrays["loss"][ends].all()


def test_a_template_may_mark_generation_and_raise(tmp_path: Path) -> None:
    marked = CHATML.replace(
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
        "{{ '<|im_start|>' + message['role'] + '\\n' }}{% generation %}{{ message['content'] + '<|im_end|>\\n' }}"
        "{% endgeneration %}",
    )
    assert "endgeneration" in marked
    base_folder(tmp_path / "base", template=marked)
    assert everything(run(tmp_path, [*tickets(5)]))
    shutil.rmtree(tmp_path / "base")
    base_folder(tmp_path / "base", template="{{ raise_exception('no such turns') }}")
    with pytest.raises(StageError, match="no such turns"):
        run(tmp_path, [*tickets(5)])


def test_written_rows_keep_their_line_numbers(tmp_path: Path) -> None:
    text = lines(tickets(2)).splitlines()
    out = run(tmp_path, [text[0], "", "   ", text[1]])
    assert sorted(row["source_row"] for row in everything(out)) == [1, 4]
