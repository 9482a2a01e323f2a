"""A plan in each platform's words: valid by its schema, and saying what was planned; the section `router`; the command."""

import json
from pathlib import Path

import made_ledger
import pytest
import yaml
from api_server import CHECKS, problems
from conftest import slipway
from hypothesis import given
from hypothesis import strategies as st

from slipway import settings
from slipway.errors import Refused, UsageError
from slipway.release.routers import kserve_manifests, kubernetes_manifests
from slipway.release.routers.configuration import KServe, Kubernetes
from slipway.release.routers.plan import Plan, name_of, name_of_version
from slipway.release.routers.protocol import Arm, share

OLD, NEW = (Arm("Support_Desk.v2", version, "sha256:abc", f"s3://models/{version}") for version in ("1.0.0", "2.0.0+b"))
FULL = {"namespace": "models", "replicas": 3, "resources": {"cpu": "2", "nvidia.com/gpu": "1"}}


def kserve(form: str, **more: object) -> KServe:
    return KServe.model_validate(
        {"kind": "kserve", "form": form, "runtime": "vllm", "service_account": "s"} | FULL | more
    )


def kubernetes(**more: object) -> Kubernetes:
    return Kubernetes.model_validate({"kind": "kubernetes", "image": "example.org/slipway:1"} | FULL | more)


@pytest.mark.parametrize("percent", [0, 5, 100])
@pytest.mark.parametrize("form", ["percent", "canary", "llm"])
def test_what_kserve_is_told_is_valid_and_says_the_plan(form: str, percent: float) -> None:
    made = kserve_manifests.render(kserve(form), Plan(OLD, NEW, percent))
    assert [problem for one in made for problem in problems(one)] == []
    alone = kserve_manifests.render(kserve(form), Plan(OLD))
    assert [problem for one in alone for problem in problems(one)] == []
    if form == "percent":
        assert made[0]["spec"]["predictor"]["canaryTrafficPercent"] == percent
        assert "canaryTrafficPercent" not in alone[0]["spec"]["predictor"]
    elif form == "canary":
        assert made[0]["spec"]["canary"][0]["trafficPercent"] == percent
        names = [made[0]["spec"]["predictor"]["name"], made[0]["spec"]["canary"][0]["predictor"]["name"]]
        assert names == ["v1-0-0", "v2-0-0-b"]
    else:
        assert [one["spec"]["router"]["route"]["weight"] for one in made] == [10_000 - 100 * percent, 100 * percent]
        assert len({one["spec"]["model"]["name"] for one in made}) == 1, "members of a group serve one name"


@pytest.mark.parametrize("percent", [0, 100])
def test_blue_and_green_are_valid_and_the_service_selects_one(percent: float) -> None:
    made = kubernetes_manifests.render(kubernetes(), Plan(OLD, NEW, percent))
    assert [problem for one in made for problem in problems(one)] == []
    assert [one["kind"] for one in made] == ["Deployment", "Deployment", "Service", "Service"]
    colors = [one["spec"]["selector"]["slipway.dev/color"] for one in made[2:]]
    assert colors == (["green", "blue"] if percent else ["blue", "green"])
    assert made[1]["spec"]["template"]["spec"]["containers"][0]["args"][1] == "Support_Desk.v2@2.0.0+b"


@pytest.mark.parametrize("steps", [[], [5, 25, 50]])
def test_what_flagger_is_told_is_valid(steps: list[int]) -> None:
    made = kubernetes_manifests.flagger(kubernetes(), Plan(OLD, NEW), steps)
    assert [problem for one in made for problem in problems(one)] == []
    deployment, canary = made
    assert canary["spec"]["targetRef"]["name"] == deployment["metadata"]["name"]
    assert (
        deployment["spec"]["selector"]["matchLabels"].items()
        <= deployment["spec"]["template"]["metadata"]["labels"].items()
    )
    analysis = canary["spec"]["analysis"]
    assert analysis.get("stepWeights", []) == steps and ("iterations" in analysis) == (not steps)


def test_the_schemas_see_what_is_wrong() -> None:
    """Guards the checks themselves: each of these was valid but for one word."""
    isvc = kserve_manifests.percent(kserve("percent"), Plan(OLD, NEW, 5))
    isvc["spec"]["predictor"]["canaryTrafficPercnt"] = 5
    canary = kserve_manifests.canary(kserve("canary"), Plan(OLD, NEW, 5))
    canary["spec"]["canary"][0]["trafficPercent"] = 101
    member = kserve_manifests.member(kserve("llm"), OLD, 1_000_001, 1)
    deployment = kubernetes_manifests.deployment(kubernetes(), OLD, "blue")
    deployment["spec"]["replica"] = 1
    service = kubernetes_manifests.service(kubernetes(), "m", "blue")
    service["spec"]["ports"][0]["port"] = "80"
    flagger = kubernetes_manifests.flagger(kubernetes(), Plan(OLD), [])[1]
    del flagger["spec"]["targetRef"]
    for wrong in (isvc, canary, member, deployment, service, flagger):
        assert problems(wrong), wrong["kind"]
    assert len(CHECKS) == 3


@given(st.text(max_size=80))
def test_names_are_what_kubernetes_takes(text: str) -> None:
    for made in (name_of(text), name_of_version(text)):
        assert len(made) <= 80 and (made == "v" or made.replace("-", "").isalnum()) and not made.startswith("-")


@pytest.mark.parametrize("wrong", [-1, 100.1, float("nan"), float("inf"), True])
def test_a_share_that_makes_no_sense_is_refused(wrong: float) -> None:
    with pytest.raises(Refused, match="within 0 and 100"):
        share(wrong)


def test_kserve_takes_whole_per_cents_and_says_so() -> None:
    with pytest.raises(Refused, match=r"whole per cents, not 2\.5"):
        kserve_manifests.canary(kserve("canary"), Plan(OLD, NEW, 2.5))
    assert kserve_manifests.weight_of(2.5) == 250


# --- configs/env ------------------------------------------------------------------------------------------------------

WRONG = {
    "  kind: local\n  namspace: m\n": "env.yaml:3: unknown key router.namspace",
    "  kind: nomad\n": "env.yaml:1: router: Input tag 'nomad'",
    "  kind: kserve\n  form: canary\n  namspace: m\n": "env.yaml:4: unknown key router.namspace",
    "  kind: kserve\n  form: weights\n  namespace: m\n": "env.yaml:3: router.form",
    "  kind: kubernetes\n  namespace: Models\n  image: x\n": "env.yaml:3: router.namespace",
    "  kind: sagemaker\n": "env.yaml:1: router.endpoint: Field required",
    "  kind: local\n  ready_seconds: .nan\n": "env.yaml:3: router.ready_seconds",
}


@pytest.mark.parametrize("text", WRONG, ids=list(WRONG.values()))
def test_a_wrong_section_is_named_by_file_line_and_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "env.yaml"
    path.write_text("router:\n" + text)
    with pytest.raises(UsageError) as caught:
        settings.load_router(path)
    assert WRONG[text] in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_an_environment_says_which_router_and_local_is_the_default(tmp_path: Path) -> None:
    from slipway.release.routers.kserve_llm import LLMRouter
    from slipway.release.routers.kubernetes import KubernetesRouter
    from slipway.release.routers.local import LocalRouter
    from slipway.release.routers.opening import open_router
    from slipway.release.routers.sagemaker import SageMakerRouter

    root = made_ledger.project(tmp_path / "project")
    path = root / "configs" / "env" / "local.yaml"
    values = yaml.safe_load(path.read_text()) | {"router": {"kind": "local"}}
    kinds = {
        "local": ({"kind": "local"}, LocalRouter),
        "kserve": ({"kind": "kserve", "form": "llm", "namespace": "m"}, LLMRouter),
        "kubernetes": ({"kind": "kubernetes", "namespace": "m", "image": "i"}, KubernetesRouter),
        "sagemaker": (
            {"kind": "sagemaker", "endpoint": "e", "region": "r", "role": "r", "image": "i", "instance_type": "t"},
            SageMakerRouter,
        ),
    }
    values.pop("router")
    path.write_text(yaml.safe_dump(values))
    assert isinstance(open_router(root, "support-desk"), LocalRouter)
    for section, kind in kinds.values():
        path.write_text(yaml.safe_dump(values | {"router": section}))
        assert isinstance(open_router(root, "support-desk"), kind)


# --- slipway canary render --------------------------------------------------------------------------------------------


def test_the_command_prints_manifests_and_asks_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "router.yaml"
    file.write_text("router:\n  kind: kserve\n  form: canary\n  namespace: models\n")
    arms = ["1.0.0=s3://m/1", "2.0.0=s3://m/2", "--percent", "5", "--model", "support-desk", "--settings", str(file)]
    code, out, err = slipway(capsys, "canary", "render", *arms, "--router", "kserve")
    made = list(yaml.safe_load_all(out))
    assert (code, err) == (0, "") and problems(made[0]) == [] and "&" not in out
    code, out, _ = slipway(capsys, "canary", "render", *arms, "--router", "kserve", "--json")
    assert code == 0 and json.loads(out) == made
    code, _, err = slipway(capsys, "canary", "render", *arms, "--router", "flagger")
    assert code == 2 and "needs the kind kubernetes" in err
    for wrong in (["--step", "25", "--step", "5"], ["--step", "0"]):
        code, _, err = slipway(capsys, "canary", "render", *arms, *wrong, "--router", "kserve")
        assert code == 2 and "must rise" in err
    code, _, err = slipway(capsys, "canary", "render", arms[0], arms[0], *arms[2:], "--router", "kserve")
    assert code == 2 and "name two versions" in err
    code, _, err = slipway(capsys, "canary", "render", "1.0.0", *arms[2:], "--router", "kserve")
    assert code == 2 and "VERSION=URI" in err
