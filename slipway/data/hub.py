"""Raw data from the Hugging Face hub, pinned to a commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

from slipway.artifacts import PinnedFile
from slipway.errors import StageError, Transient, UsageError


def _split(uri: str) -> tuple[str, str | None, str | None, str]:
    """(name, revision, configuration, split) of hf://name@revision?split=train&config=…"""
    address, _, query = uri.removeprefix("hf://").partition("?")
    name, _, revision = address.partition("@")
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    if unknown := sorted(options.keys() - {"split", "config"}):
        raise UsageError(f"{uri}: unknown option {unknown[0]}; there are split and config")
    if not name:
        raise UsageError(f"{uri} names no data set; write hf://owner/name@revision?split=train (ingest.source)")
    return name, revision or None, options.get("config"), options.get("split", "train")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """The hub's errors as ours: a hiccup or a wrong name."""
    import httpx2  # what huggingface_hub speaks through
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise UsageError(f"{uri}: the hub is switched off here (HF_HUB_OFFLINE); unset it or use local files") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{uri}: no such data set or revision ({first}); correct ingest.source") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise Transient(f"{uri}: the hub is busy ({status}); try again") from None
        raise UsageError(f"{uri}: the hub answered {status}; check the name and your token (HF_TOKEN)") from None
    except (httpx2.TransportError, ConnectionError, TimeoutError) as error:
        raise Transient(f"{uri}: the hub did not answer ({error}); try again, or use local files") from None


def pin(uri: str, role: Literal["data", "test"]) -> tuple[list[PinnedFile], str]:
    """The data set at the commit that its revision means now."""
    from huggingface_hub import HfApi

    name, revision, config, split = _split(uri)
    with _translated(uri):
        commit = HfApi().dataset_info(name, revision=revision).sha
    if commit is None:
        raise StageError(f"{uri}: the hub tells no commit for it; name a revision")
    options = f"split={split}" + (f"&config={config}" if config else "")
    return [PinnedFile(uri=f"hf://{name}@{commit}?{options}", role=role)], commit


def fetch(file: PinnedFile, target: Path) -> None:
    """Write the pinned split as one Parquet file."""
    import datasets

    name, revision, config, split = _split(file.uri)
    datasets.disable_progress_bars()
    with _translated(file.uri):
        try:
            loaded = datasets.load_dataset(name, config, split=split, revision=revision)
        except (FileNotFoundError, ValueError) as error:
            first = (str(error).strip().splitlines() or ["no data"])[0]
            raise StageError(f"{file.uri}: {first}; check name, split and config in ingest.source") from None
    loaded.to_parquet(str(target))
