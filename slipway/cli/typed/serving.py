"""One replica, and the same engine offline."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slipway.cli.typed.root import Json, app


@app.command(name="serve")
def serve_versions(
    *targets: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Literal["transformers", "vllm"] | None = None,
    composites: bool = True,
    json: Json = False,
) -> int:
    """Answer as OpenAI's API does, with one model's version or several, until a signal.

    Parameters
    ----------
    targets
        What to serve, as NAME@champion or NAME@1.0.0, or the name of a composite; the first one answers where a request
        names no model.
    host
        The address to listen on.
    port
        The port; 0 takes a free one and says which.
    engine
        What generates, in place of `engine` in configs/serving.yaml.
    composites
        Whether the composites of configs/serving.yaml are served too, with the versions that they are made of. Where
        some are named, only those are.
    """
    from slipway.cli import serve

    return serve.serve(targets, host, port, engine, composites, json)


@app.command(name="vllm")
def vllm_server(
    *targets: str,
    out: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    tensor_parallel: int = 1,
    json: Json = False,
) -> int:
    """Write the command of a vLLM server, and verified copies of what it serves; vLLM itself is not needed here.

    Parameters
    ----------
    targets
        What it serves, as for `slipway serve`: NAME@champion, NAME@1.0.0, NAME@base; of a composite, its members.
    out
        A new folder for the copies and `serve.sh`, to be mounted where vLLM runs.
    host
        The address that vLLM listens on; 0.0.0.0 within a container.
    port
        Its port.
    max_model_len
        The most tokens of prompt and answer together; otherwise what the model has.
    gpu_memory_utilization
        The share of the GPU's memory that vLLM takes; otherwise its own default.
    tensor_parallel
        How many GPUs share the model.
    """
    from slipway.cli import vllm
    from slipway.generating.vllm_command import Options

    options = Options(host, port, max_model_len, gpu_memory_utilization, tensor_parallel)
    return vllm.write(targets, out, options, json)


@app.command
def predict(
    given: Annotated[Path, Parameter(name="IN")],
    out: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    model: str = "champion",
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    stop: list[str] | None = None,
    batch: int = 32,
    shard_rows: int = 256,
    threads: int | None = None,
    json: Json = False,
) -> int:
    """Answer a file or folder of prompts offline, through the engine that serves; killed, run it again to go on.

    Parameters
    ----------
    given
        JSON lines with `prompt` or `messages`, and an `id` if wanted; or a folder of such *.jsonl files.
    out
        A folder for the answers.
    model
        The version: NAME@champion, NAME@1.2.0, previous, latest, a release's id, or NAME@base.
    max_tokens
        The most an answer may have.
    temperature
        0 takes the likeliest token each time.
    top_p
        Draw from the likeliest tokens that make this share together.
    top_k
        Draw from so many of the likeliest tokens; 0 is all.
    seed
        Makes drawn answers the same each time.
    stop
        An answer ends before this text; may be given several times.
    batch
        Answers that grow at once.
    shard_rows
        Rows in each file of answers; a kill costs at most the files that were not full yet.
    threads
        CPU threads that compute.
    """
    from slipway.cli import offline

    sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop or [],
    }
    return offline.predict(given, out, model, {**sampling, "seed": seed}, batch, shard_rows, threads, json)
