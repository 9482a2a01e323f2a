"""The section `router` of configs/env: which router, and what it must know of its platform."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Label = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$")]  # what Kubernetes calls a name
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ready_seconds: Seconds = Field(default=600, description="How long a version may take until it is ready")


class Local(_Part):
    """`slipway gateway` on this machine."""

    kind: Literal["local"] = "local"


class _Cluster(_Part):
    """What every router of Kubernetes needs."""

    namespace: Label
    name: Label | None = Field(default=None, description="Of the resources; none: the model's name")
    kubeconfig: Text | None = Field(
        default=None, description="A file; none: the one of this user, or the pod's account"
    )
    context: Text | None = None
    look_seconds: Seconds = Field(default=1, description="Between two looks while something is waited for")
    move_seconds: Seconds = Field(default=60, description="How long the platform may take to do what was written")
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    resources: dict[Text, Text] = Field(
        default={}, description="Requests and limits of a replica, as in nvidia.com/gpu"
    )


class KServe(_Cluster):
    """KServe, by one of its three ways to split traffic."""

    kind: Literal["kserve"]
    form: Literal["percent", "canary", "llm"] = Field(
        description="canaryTrafficPercent (Knative), spec.canary (Standard), or LLMInferenceService weights"
    )
    model_format: Text = "huggingface"
    runtime: Text | None = Field(default=None, description="A ServingRuntime; none: KServe finds one by the format")
    service_account: Label | None = Field(default=None, description="Whose secret opens the store of models")


class Kubernetes(_Cluster):
    """Two Deployments, blue and green, and a Service that is switched."""

    kind: Literal["kubernetes"]
    image: Text
    arguments: list[Text] = Field(
        default=["serve", "{model}@{version}", "--host", "0.0.0.0", "--port", "{port}"],
        description="Of the container; {model}, {version}, {identity}, {uri} and {port} are filled in",
    )
    port: Port = 8000
    service_port: Port = 80
    smoke: list[Text] = Field(default=["/ready"], description="Paths that must answer 200 before the switch")


class SageMaker(_Part):
    """An endpoint with two production variants."""

    kind: Literal["sagemaker"]
    endpoint: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")]
    region: Text
    role: Text = Field(description="ARN of the role that SageMaker takes on")
    image: Text = Field(description="The serving container, in ECR")
    instance_type: Text
    instances: Annotated[int, Field(ge=1, le=1000)] = 1
    look_seconds: Seconds = 5
    move_seconds: Seconds = Field(default=600, description="How long a change of weights may take")


Settings = Annotated[Local | KServe | Kubernetes | SageMaker, Field(discriminator="kind")]
