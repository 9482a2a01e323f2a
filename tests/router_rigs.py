"""Each router on a platform it can be tried with, behind one form: what it is asked, and what really has the traffic."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_replica
from api_server import ApiServer
from controllers import Groups, Knative, Standard, deployments
from gateways import Client, configuration, need_haproxy
from made_replica import MODEL

from slipway.gateway import steering
from slipway.gateway.control import Gateway
from slipway.release.routers.cluster import Cluster
from slipway.release.routers.configuration import KServe, Kubernetes, SageMaker
from slipway.release.routers.protocol import Arm, Router

Before = Callable[[], None]


class Killed(BaseException):
    """Where a process would have died."""


class Dying:
    """Dies before the n-th write."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


def alive() -> None:
    """Never dies."""


class Rig:
    """One platform, empty. `steps` are the shares on the way up that it can give."""

    name: str
    steps: tuple[float, ...] = (5, 50, 100)

    def arm(self, version: str) -> Arm:
        return Arm(MODEL, version, f"sha256:{version}", f"s3://models/{MODEL}/{version}")

    def router(self, before_write: Before = alive) -> Router:
        raise NotImplementedError

    def unreachable(self) -> Router:
        raise NotImplementedError

    def shares(self) -> dict[str, float]:
        """Who has the traffic, by what the platform itself would do."""
        raise NotImplementedError

    def there(self) -> set[str]:
        """The versions that are deployed."""
        raise NotImplementedError

    def unready(self, *versions: str) -> None:
        raise NotImplementedError

    def disturb(self, times: int) -> None:
        """Somebody else changes what is steered, just before our writes."""
        raise NotImplementedError

    def empty(self) -> None:
        raise NotImplementedError


# --- Kubernetes -------------------------------------------------------------------------------------------------------


class DyingCluster(Cluster):
    def __init__(self, settings: KServe | Kubernetes, before_write: Before) -> None:
        super().__init__(settings)
        self.before_write = before_write

    def send(self, method: str, path: str, body: Any = None, query: Any = None) -> Any:
        if method != "GET":
            self.before_write()
        return super().send(method, path, body, query)


class ClusterRig(Rig):
    """A router of a cluster, on the API server's stand-in."""

    def __init__(self, form: str, folder: Path) -> None:
        self.name, self.form, self.folder = form, form, folder
        self.knative, self.standard, self.groups = Knative(), Standard(), Groups()
        self.api = ApiServer([deployments, self.knative, self.standard, self.groups])
        self.config = self.api.kubeconfig(folder / f"{form}.kubeconfig")
        if form == "kubernetes":
            self.steps = (100,)

    def settings(self, kubeconfig: Path) -> KServe | Kubernetes:
        common = {
            "namespace": "models", "kubeconfig": str(kubeconfig), "look_seconds": 0.01, "move_seconds": 1,
            "ready_seconds": 0.3, "replicas": 2, "resources": {"cpu": "1", "memory": "2Gi"},
        }  # fmt: skip
        if self.form == "kubernetes":
            return Kubernetes.model_validate({"kind": "kubernetes", "image": "example.org/slipway:1"} | common)
        return KServe.model_validate({"kind": "kserve", "form": self.form} | common)

    def router(self, before_write: Before = alive) -> Router:
        return self._made(self.settings(self.config), before_write)

    def unreachable(self) -> Router:
        return self._made(self.settings(self.api.kubeconfig(self.folder / "dead", "http://127.0.0.1:1")), alive)

    def _made(self, settings: KServe | Kubernetes, before_write: Before) -> Router:
        from slipway.release.routers.kserve_canary import CanaryRouter
        from slipway.release.routers.kserve_llm import LLMRouter
        from slipway.release.routers.kserve_percent import PercentRouter
        from slipway.release.routers.kubernetes import KubernetesRouter

        kinds: dict[str, Any] = {
            "percent": PercentRouter, "canary": CanaryRouter, "llm": LLMRouter, "kubernetes": KubernetesRouter,
        }  # fmt: skip
        router: Router = kinds[self.form](settings, MODEL, DyingCluster(settings, before_write))
        return router

    def shares(self) -> dict[str, float]:
        if self.form == "llm":
            found = self.groups.shares(self.api.of_kind("LLMInferenceService"))
        elif self.form == "kubernetes":
            service = next(one for one in self.api.of_kind("Service") if "preview" not in one["metadata"]["name"])
            wanted = service["spec"]["selector"].items()
            colors = [one for one in self.api.of_kind("Deployment") if wanted <= one["metadata"]["labels"].items()]
            found = {one["metadata"]["annotations"]["slipway.dev/version"]: 100.0 for one in colors}
        else:
            one = self.api.of_kind("InferenceService")[0]
            found = self.knative.shares(one) if self.form == "percent" else self.standard.shares(one)
        return {version: share for version, share in found.items() if share}

    def there(self) -> set[str]:
        if self.form in ("llm", "kubernetes"):
            kind = "LLMInferenceService" if self.form == "llm" else "Deployment"
            return {one["metadata"]["annotations"]["slipway.dev/version"] for one in self.api.of_kind(kind)}
        spec = self.api.of_kind("InferenceService")[0]["spec"]
        predictors = [spec["predictor"], *(one["predictor"] for one in spec.get("canary") or [])]
        return {one["annotations"]["slipway.dev/version"] for one in predictors} | set(self.shares())

    def unready(self, *versions: str) -> None:
        self.api.unready = set(versions)
        self.api._reconcile()

    def disturb(self, times: int) -> None:
        left = [times]

        def before(method: str, path: str) -> None:
            if method == "PUT" and left[0] > 0:
                left[0] -= 1
                self.api.touch(self.api.objects[path])

        self.api.before_write = before

    def empty(self) -> None:
        self.api.before_write = lambda method, path: None
        self.api.objects.clear()
        self.api.writes.clear()
        self.knative.revisions.clear()
        self.standard.least_stable.clear()
        self.api.unready, self.api.smoke_status, self.api.lag = set(), 200, 0


# --- the local gateway ------------------------------------------------------------------------------------------------


class LocalRig(Rig):
    """A real gateway, whose replicas are made ones."""

    name = "local"

    def __init__(self, folder: Path) -> None:
        need_haproxy()
        self.folder = folder
        self.bad: set[str] = set()
        self.gateway = Gateway(configuration([], []), folder / "gateway")
        self.gateway.serving.command = lambda _, version: (
            [sys.executable, "-c", "import sys; sys.exit('slipway: it does not load')"]
            if version in self.bad
            else [sys.executable, made_replica.__file__, "--version", version, "--json"]
        )
        self.gateway.start()
        self.port = int(str(self.gateway.routing.listen).rpartition(":")[2])

    def router(self, before_write: Before = alive) -> Router:
        from slipway.release.routers.local import LocalRouter

        def ask(folder: Path, path: str, asked: Any = None, seconds: float = 90) -> Any:
            if asked is not None:
                before_write()
            return steering.ask(folder, path, asked, seconds)

        return LocalRouter(self.gateway.folder, MODEL, 20, ask)

    def unreachable(self) -> Router:
        from slipway.gateway import routing
        from slipway.release.routers.local import LocalRouter

        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        routing.save(elsewhere, routing.Routing(admin="127.0.0.1:1"))
        return LocalRouter(elsewhere, MODEL, 1)

    def shares(self) -> dict[str, float]:
        client = Client(self.port)
        found = [client.ask(str(user)).version for user in range(40)]
        client.close()
        whole = {version: 100.0 * found.count(version) / len(found) for version in set(found)}
        weights, now = self.gateway.weights(MODEL), self.gateway.model(MODEL)
        return (
            whole
            if len(whole) == 1
            else {str(now.side(arm).version): weights[arm] for arm in ("champion", "candidate")}
        )

    def there(self) -> set[str]:
        now = self.gateway.model(MODEL)
        return {str(now.side(arm).version) for arm in ("champion", "candidate") if now.side(arm).replicas}

    def unready(self, *versions: str) -> None:
        self.bad = set(versions)
        for one in self.gateway.serving.started:
            if one.version in versions:
                one.stop()

    def disturb(self, times: int) -> None:
        self.gateway.set_shadow(MODEL, times, "somebody else")

    def empty(self) -> None:
        """Nothing but the first version, where it is in charge: a replica takes a while to start."""
        self.bad = set()
        self.gateway.set_weights(MODEL, {"champion": 100, "candidate": 0}, "a test", back=True)
        keep = self.gateway.model(MODEL).champion.version == "1.0.0"
        for arm in ("candidate",) if keep else ("candidate", "champion"):
            for one in list(self.gateway.model(MODEL).side(arm).replicas):
                self.gateway.forget(MODEL, one.address)  # the watch ends its process

    def close(self) -> None:
        self.gateway.stop(1)


# --- SageMaker --------------------------------------------------------------------------------------------------------


class SageMakerRig(Rig):
    """moto's SageMaker over HTTP. It has no UpdateEndpoint; that one call is answered here, as its documentation says."""

    name = "sagemaker"

    def __init__(self, address: str) -> None:
        self.failing: set[str] = set()
        self.before_write: Before = alive
        self.looks_while_updating = 0
        self.made = self.client(address)  # takes half a second each time

    def settings(self) -> SageMaker:
        return SageMaker.model_validate({
            "kind": "sagemaker", "endpoint": "support-desk", "region": "us-east-1", "instance_type": "ml.g4dn.xlarge",
            "role": "arn:aws:iam::123456789012:role/serve", "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/s:1",
            "look_seconds": 0.01, "move_seconds": 1, "ready_seconds": 0.3,
        })  # fmt: skip

    def client(self, address: str) -> Any:
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "sagemaker", region_name="us-east-1", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s",
            config=Config(connect_timeout=1, retries={"max_attempts": 0}),
        )  # fmt: skip

        def before(model: Any, params: Any, **_: Any) -> Any:
            if not model.name.startswith(("Describe", "List")):
                self.before_write()
            elif self.looks_while_updating:
                self.looks_while_updating -= 1
                status = "Updating" if self.looks_while_updating else "InService"
                self._backend().endpoints["support-desk"].endpoint_status = status
            return self._update_endpoint(params) if model.name == "UpdateEndpoint" else None

        client.meta.events.register("before-call.sagemaker", before)
        return client

    def _update_endpoint(self, params: Any) -> Any:
        """Variants of the new configuration; properties of those that stay are kept, but for what is excluded."""
        import json

        from botocore.awsrequest import AWSResponse

        asked = json.loads(params["body"])
        endpoint = self._backend().endpoints[asked["EndpointName"]]
        config = self._backend().describe_endpoint_config(asked["EndpointConfigName"])
        assert asked["RetainAllVariantProperties"]
        assert asked["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DesiredWeight"}]
        wanted = config["ProductionVariants"]
        if any(version in one["VariantName"] for one in wanted for version in self.failing):
            endpoint.failure_reason = "the container did not pass its ping"  # SageMaker goes back to what it had
        else:
            endpoint.production_variants = endpoint._process_production_variants(wanted)
            endpoint.endpoint_config_name = asked["EndpointConfigName"]
        return AWSResponse("", 200, {}, None), {
            "EndpointArn": endpoint.arn,
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }

    def _backend(self) -> Any:
        from moto.sagemaker.models import sagemaker_backends

        return sagemaker_backends["123456789012"]["us-east-1"]

    def router(self, before_write: Before = alive) -> Router:
        from slipway.release.routers.sagemaker import SageMakerRouter

        self.before_write = before_write
        return SageMakerRouter(self.settings(), MODEL, self.made)

    def unreachable(self) -> Router:
        from slipway.release.routers.sagemaker import SageMakerRouter

        return SageMakerRouter(self.settings(), MODEL, self.client("http://127.0.0.1:1"))

    def shares(self) -> dict[str, float]:
        variants = self._backend().endpoints["support-desk"].production_variants
        weights = {one["VariantName"][1:].replace("-", "."): one.get("CurrentWeight") or 0 for one in variants}
        return {version: 100 * weight / sum(weights.values()) for version, weight in weights.items() if weight}

    def there(self) -> set[str]:
        variants = self._backend().endpoints["support-desk"].production_variants
        return {one["VariantName"][1:].replace("-", ".") for one in variants}

    def unready(self, *versions: str) -> None:
        self.failing = {version.replace(".", "-") for version in versions}

    def disturb(self, times: int) -> None:
        """Somebody else's update is under way for a few looks."""
        self.looks_while_updating = 2 + times

    def empty(self) -> None:
        self._backend().reset()
        self.failing, self.looks_while_updating = set(), 0


@contextlib.contextmanager
def rig(kind: str, folder: Path) -> Iterator[Rig]:
    """A platform for one of local, percent, canary, llm, kubernetes, sagemaker."""
    if kind == "local":
        local = LocalRig(folder)
        try:
            yield local
        finally:
            local.close()
    elif kind == "sagemaker":
        from moto.server import ThreadedMotoServer

        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        moto.start()
        host, port = moto.get_host_and_port()
        yield SageMakerRig(f"http://{host}:{port}")
        moto.stop()
    else:
        cluster = ClusterRig(kind, folder)
        yield cluster
        cluster.api.close()
