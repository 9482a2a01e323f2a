"""A SageMaker endpoint with two production variants, and their weights.

Weights change by a call of their own, in about a minute. A variant that comes or goes needs a new endpoint configuration,
which takes as long as starting an instance. Which version is in charge stands in the endpoint's tags.
"""

import functools
import hashlib
import json
import re
from typing import Any

from slipway.artifacts import Json
from slipway.errors import Refused, StageError, Transient
from slipway.release.routers import protocol
from slipway.release.routers.configuration import SageMaker
from slipway.release.routers.plan import bytes_of
from slipway.release.routers.protocol import Arm, Traffic

CHAMPION, CANDIDATE = "slipway:champion", "slipway:candidate"
_TRY_AGAIN = {"ThrottlingException", "ServiceUnavailable", "InternalFailure", "ResourceInUse", "ConflictException"}


class SageMakerRouter:
    """One endpoint."""

    def __init__(self, settings: SageMaker, model: str, client: Any = None) -> None:
        self.settings, self.where = settings, f"the endpoint {settings.endpoint}"
        if client is not None:
            self.client = client

    @functools.cached_property
    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        limits = Config(connect_timeout=3, read_timeout=20, retries={"max_attempts": 3})
        return boto3.client("sagemaker", region_name=self.settings.region, config=limits)

    def look(self) -> Traffic:
        there = self._endpoint()
        if there is None:
            return Traffic(None, None, 0)
        tags = self._tags(there)
        champion, candidate = tags.get(CHAMPION), tags.get(CANDIDATE)
        weights = {one["VariantName"]: float(one.get("CurrentWeight") or 0) for one in there["ProductionVariants"]}
        known = {variant(version): version for version in (champion, candidate) if version}
        if champion is None or set(weights) - set(known):
            raise Refused(
                f"{self.where} has the variants {', '.join(weights)}, and its tags know {champion} and {candidate}; "
                f"give this router an endpoint of its own"
            )
        if candidate is not None and variant(candidate) not in weights:
            candidate = None  # not there yet, or gone already: its tag is written first and taken away last
        total, serves = sum(weights.values()), there["EndpointStatus"] in ("InService", "Updating")
        ready = {version: serves for name, version in known.items() if name in weights}
        has = weights[variant(candidate)] if candidate else 0.0
        return Traffic(champion, candidate, round(100 * has / total, 2) if total else 0.0, ready)

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        bytes_of(candidate)
        self._stand_up(champion)
        now = self.look()
        protocol.in_charge(now, champion, candidate, self.where)
        if now.candidate not in (None, candidate.version):
            self.abandon()
        if not self.look().ready.get(candidate.version, False):
            self._tag({CHAMPION: champion.version, CANDIDATE: candidate.version})
            self._shape([(self._model_of(champion), champion.version), (self._model(candidate), candidate.version)])

    def move(self, candidate_percent: float, why: str) -> Traffic:
        wanted, now = protocol.share(candidate_percent), self.look()
        protocol.can_take(now, wanted, self.where)
        if now.candidate is not None and now.candidate_percent != wanted:
            self._weigh(str(now.champion), now.candidate, wanted)
        return protocol.expect(self.look(), wanted, self.where)

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, self.where)
            self._tag({CHAMPION: candidate.version, CANDIDATE: str(now.champion)})
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        now = self.look()
        if now.champion is None:
            self._stand_up(champion)
        elif champion.version not in (now.champion, now.candidate):
            return protocol.bring_back(self, now, champion)
        else:
            beside = now.candidate if champion.version == now.champion else now.champion
            if beside is not None:
                self._weigh(champion.version, beside, 0)
            if champion.version != now.champion:
                self._tag({CHAMPION: champion.version, CANDIDATE: str(now.champion)})
        return protocol.expect(self.look(), 0, self.where)

    def abandon(self) -> None:
        now = self.look()
        if now.candidate is None:
            return
        protocol.idle(now, self.where)
        kept = str(now.champion)
        self._shape([(self._model_of(Arm("", kept, "")), kept)])
        self._call("delete_tags", ResourceArn=self._arn(), TagKeys=[CANDIDATE])

    # --- what SageMaker is asked ------------------------------------------------------------------------------------------

    def _stand_up(self, champion: Arm) -> None:
        if self._endpoint() is not None:
            return
        config = self._config([(self._model(champion), champion.version)])
        tags = [{"Key": CHAMPION, "Value": champion.version}]
        self._call("create_endpoint", EndpointName=self.settings.endpoint, EndpointConfigName=config, Tags=tags)
        self._until_in_service(self.settings.ready_seconds)

    def _shape(self, variants: list[tuple[str, str]]) -> None:
        """The endpoint with these variants, the first of them with all traffic; at once where it has them already."""
        config = self._config(variants)
        self._until_in_service(self.settings.move_seconds)
        there = self._endpoint() or {}
        if {one["VariantName"] for one in there["ProductionVariants"]} != {variant(version) for _, version in variants}:
            self._call(
                "update_endpoint", EndpointName=self.settings.endpoint, EndpointConfigName=config,
                RetainAllVariantProperties=True, ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
            )  # fmt: skip
            self._until_in_service(self.settings.ready_seconds)
        now = self._endpoint() or {}
        if now.get("EndpointConfigName") != config:
            raise StageError(
                f"{self.where} could not be given {config} ({now.get('FailureReason') or 'SageMaker went back'}); it serves as before. "
                f"Look at its log in CloudWatch"
            )

    def _weigh(self, champion: str, beside: str, beside_percent: float) -> None:
        weights = {variant(champion): 100 - beside_percent, variant(beside): beside_percent}
        asked = [{"VariantName": name, "DesiredWeight": weight} for name, weight in weights.items()]
        self._until_in_service(self.settings.move_seconds)
        self._call(
            "update_endpoint_weights_and_capacities",
            EndpointName=self.settings.endpoint,
            DesiredWeightsAndCapacities=asked,
        )
        self._until_in_service(self.settings.move_seconds)

    def _config(self, variants: list[tuple[str, str]]) -> str:
        """An endpoint configuration, named by what stands in it."""
        wanted = [
            {
                "VariantName": variant(version), "ModelName": model, "InstanceType": self.settings.instance_type,
                "InitialInstanceCount": self.settings.instances, "InitialVariantWeight": 0.0 if number else 1.0,
            }
            for number, (model, version) in enumerate(variants)
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{self.settings.endpoint[:50]}-{digest}"
        if self._find("describe_endpoint_config", EndpointConfigName=name) is None:
            self._call("create_endpoint_config", EndpointConfigName=name, ProductionVariants=wanted)
        return name

    def _model(self, arm: Arm) -> str:
        """A model of SageMaker, named by what it is."""
        name = f"{self.settings.endpoint[:20]}-{variant(arm.version)[:24]}-{re.sub('[^a-zA-Z0-9]', '', arm.identity)[-12:]}".rstrip(
            "-"
        )
        if self._find("describe_model", ModelName=name) is None:
            container = {"Image": self.settings.image, "ModelDataUrl": bytes_of(arm)}
            self._call("create_model", ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self.settings.role)
        return name

    def _model_of(self, arm: Arm) -> str:
        """The model behind a variant that is there."""
        there = self._endpoint() or {}
        config = self._find("describe_endpoint_config", EndpointConfigName=there.get("EndpointConfigName")) or {}
        for one in config.get("ProductionVariants", []):
            if one["VariantName"] == variant(arm.version):
                return str(one["ModelName"])
        return self._model(arm)

    def _until_in_service(self, seconds: float) -> None:
        """SageMaker takes one change at a time."""

        def done() -> bool:
            status = (self._endpoint() or {}).get("EndpointStatus")
            if status in ("Failed", "OutOfService", "UpdateRollbackFailed"):
                raise StageError(f"{self.where} is {status}; look at its log in CloudWatch, mend or delete it")
            return status == "InService"

        protocol.wait(done, seconds, self.settings.look_seconds, lambda: f"{self.where} is not in service")

    def _endpoint(self) -> Json | None:
        return self._find("describe_endpoint", EndpointName=self.settings.endpoint)

    def _arn(self) -> str:
        return str((self._endpoint() or {})["EndpointArn"])

    def _tags(self, endpoint: Json) -> dict[str, str]:
        found = self._call("list_tags", ResourceArn=endpoint["EndpointArn"])
        return {one["Key"]: one["Value"] for one in found["Tags"]}

    def _tag(self, tags: dict[str, str]) -> None:
        self._call("add_tags", ResourceArn=self._arn(), Tags=[{"Key": key, "Value": tags[key]} for key in tags])

    def _find(self, call: str, **asked: Any) -> Json | None:
        try:
            return self._call(call, **asked)
        except _Missing:
            return None

    def _call(self, call: str, **asked: Any) -> Json:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            done: Json = getattr(self.client, call)(**asked)
            return done
        except ClientError as error:
            raise _error(self.where, call, error.response.get("Error", {})) from None
        except BotoCoreError as error:
            raise Transient(f"SageMaker does not answer {call} ({error}); is it reachable, with credentials?") from None


class _Missing(Exception):
    """There is no such thing."""


def _error(where: str, call: str, said: dict[str, str]) -> Exception:
    code, text = said.get("Code", ""), " ".join(said.get("Message", "").split())[:300]
    if call.startswith("describe") and "could not find" in text.lower():
        return _Missing()
    if code in _TRY_AGAIN or "Cannot update in-progress" in text:
        return Transient(f"{where}: {call}: {code}: {text}; run this again")
    return Refused(f"{where}: {call}: {code}: {text}; correct `router` in configs/env, or the role's rights")


def variant(version: str) -> str:
    """A version as the name of a variant: 1.0.0 is v1-0-0."""
    return "v" + re.sub(r"[^a-zA-Z0-9]+", "-", version).strip("-")[:60]
