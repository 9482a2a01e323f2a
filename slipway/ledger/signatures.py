"""Sign a small statement with the project's key, and hold one against the trust file.

The signature is ECDSA over the canonical JSON of the statement behind a word for its purpose, so that what was signed for
one purpose is worth nothing for another. It stands as hexadecimal text, of which there is one form only.
"""

from pathlib import Path

from slipway.artifacts import Json
from slipway.errors import StageError
from slipway.ledger.chain import canonical
from slipway.registry import keys


def sign(private: Path, purpose: str, statement: Json) -> str:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise StageError(f"{private} does not sign ({error}); `slipway keys rotate` makes another key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StageError(f"{private} is of another kind of key; `slipway keys rotate` makes another key")
    return key.sign(_signed(purpose, statement), ec.ECDSA(hashes.SHA256())).hex()


def is_of(public: str, purpose: str, statement: Json, signature: str) -> bool:
    """Whether the key of this public half signed this very statement, for this purpose."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key, raw = serialization.load_pem_public_key(public.encode()), bytes.fromhex(signature)
        if not isinstance(key, ec.EllipticCurvePublicKey) or raw.hex() != signature:
            return False
        key.verify(raw, _signed(purpose, statement), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def forged(trust: keys.Trust, purpose: str, statement: Json, key: str, signature: str) -> str | None:
    """Why a statement was not signed by the key that it names, or by nobody's that we know; None when it was."""
    known = trust.keys.get(key)
    if known is None or not known.vouches(
        "project"
    ):  # neither a person's key nor another's for models vouches for a ledger
        return f"is signed by the key {key[:16]}, which nobody here trusts"
    if not is_of(known.public, purpose, statement, signature):
        return f"does not bear the signature of the key {key[:16]}"
    return None


def _signed(purpose: str, statement: Json) -> bytes:
    return f"slipway {purpose}\n{canonical(statement)}".encode()
