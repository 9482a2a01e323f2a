"""lm-evaluation-harness with our likelihood scoring: the same requests, tokens and answers, in fewer passes.

Import it where it is used: lm-eval takes seconds to import.
"""

import copy
from itertools import takewhile
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs

from slipway.errors import StageError
from slipway.evaluation.inference import attempted
from slipway.evaluation.likelihood import Scorer, halved
from slipway.progress import Progress

_ALL = 10**9  # lm-eval's own batch size: it hands over everything at once, and the cutting is ours

_KEPT = 4  # a token kept while others are written takes about a quarter of one that is being read


class Harness(HFLM):  # type: ignore[misc]
    """A loaded model as lm-eval's `model=`; with LoRA on top as it is, nothing merged."""

    def __init__(self, network: Any, tokenizer: Any, positions: int | None, tokens_per_batch: int) -> None:
        self._encoded: dict[str, list[int]] = {}  # every text of the requests at hand
        super().__init__(
            pretrained=network,
            backend="causal",
            tokenizer=copy.deepcopy(tokenizer),  # lm-eval gives it a pad token
            max_length=positions,
            batch_size=_ALL,
        )
        self.kept = _KEPT * tokens_per_batch
        self.scorer = Scorer(network, self.max_length, tokens_per_batch)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results; its own asks a hub."""
        return {"model_num_parameters": int(self.model.num_parameters()), "model_dtype": str(self.model.dtype)}

    # --- likelihood -------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """lm-eval's, with every text tokenised once, and all of them together."""
        pairs = [request.args for request in requests]
        if empty := [number for number, (context, answer) in enumerate(pairs) if not context + answer]:
            raise StageError(f"request {empty[0]} of a task has neither context nor answer; correct the suite's rows")
        self._encoded = self._encode(sorted({text for c, a in pairs if c for text in (c.rstrip(), c + a)}))
        try:
            return list(super().loglikelihood(requests, disable_tqdm=True))
        finally:
            self._encoded = {}

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        if add_special_tokens is None and not more and string in self._encoded:
            return self._encoded[string]
        return list(super().tok_encode(string, add_special_tokens, **more))

    def _encode(self, texts: list[str]) -> dict[str, list[int]]:
        """Every text in tokens as lm-eval's `tok_encode` has them."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        found: dict[str, list[int]] = {}
        for has_begin in (False, True):
            group = [text for text in texts if has_bos_prefix(text, begin) == has_begin]
            options = {"add_special_tokens": False} if has_begin else {}
            if group:
                found |= zip(group, self.tokenizer(group, **options)["input_ids"], strict=True)
        return found

    def _loglikelihood_tokens(self, requests: list[Any], *_: Any, **__: Any) -> list[tuple[float, bool]]:
        scores = self.scorer.score([(context, answer) for _, context, answer in requests])
        for (asked, _, _), score in zip(requests, scores, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, score)
        return scores

    # --- generation -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """lm-eval's greedy answers, in batches of like length sized by tokens."""
        sizes = [self._size(*request.args) for request in requests]
        found: dict[int, str] = {}
        progress = Progress(len(requests), "generation: answer")
        left = sorted(range(len(requests)), key=lambda n: (repr(requests[n].args[1]), -sizes[n], n))
        while left:
            batch = self._batch(requests, sizes, left)
            done = attempted(super().generate_until, [requests[n] for n in batch], True)
            if isinstance(done, str):
                self.kept = halved(len(batch), sizes[batch[0]], done)
                continue
            found |= zip(batch, done, strict=True)
            progress.at(len(found))
            left = left[len(batch) :]
        return [found[number] for number in range(len(requests))]

    def _size(self, context: str, options: dict[str, Any]) -> int:
        """How many tokens a request may come to with its answer."""
        wanted = normalize_gen_kwargs(options, self.max_gen_toks)
        if wanted["do_sample"] or int(options.get("num_beams", 1)) > 1:
            raise StageError(
                f"a task asks for sampled or beam-searched answers ({options}); only greedy ones are the same on every "
                f"run: set do_sample: false in its generation_kwargs"
            )
        if wanted["max_gen_toks"] >= self.max_length:
            raise StageError(
                f"a task asks for answers of {wanted['max_gen_toks']} tokens and the model has {self.max_length} "
                f"positions, its prompt's among them; set a lower max_gen_toks in its generation_kwargs"
            )
        return min(len(self.tok_encode(context)) + int(wanted["max_gen_toks"]), int(self.max_length))

    def _batch(self, requests: list[Any], sizes: list[int], left: list[int]) -> list[int]:
        """As many of the next requests with the same options as fit in a batch."""
        options, count = requests[left[0]].args[1], max(1, self.kept // sizes[left[0]])
        return list(takewhile(lambda n: requests[n].args[1] == options, left[:count]))
