"""Plain text, model cards and YAML: nothing that a viewer, a shell or a parser would take for orders."""

import html
import re

import yaml

from slipway.scanning import letters
from slipway.scanning.denied import Denied, decoded, shown
from slipway.scanning.walk import Opened

MAX_BYTES = 16_000_000
MAX_CARD_BYTES = 1_000_000
MAX_YAML_DEPTH = 40

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x9b]")  # an escape sequence rewrites a terminal
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")  # what is shown is not what is read
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----")
_DOCUMENT = re.compile(r"\ufeff?\s*<(!doctype|html|\?xml|\?php|svg|script)\b", re.IGNORECASE)
# In a card: what a browser would run, load into the page, or send. Names alone are often placeholders (`see <link>`).
_ACTIVE = re.compile(
    r"<\s*(?:(?:script|iframe|frame|frameset|applet|style)\b|(?:object|embed|link|base|meta|form|button|input)\s+[\w-]+\s*=)",
    re.IGNORECASE,
)
_HANDLER = re.compile(
    r"""[\s/"'`]on(?:error|load\w*|unload|click|dblclick|mouse\w+|key\w+|focus\w*|blur|toggle|pointer\w+|touch\w+|begin|end"""
    r"""|animation\w+|transition\w+|wheel|scroll\w*|drag\w*|drop|input|change|submit|select\w*|resize|message|hashchange"""
    r"""|page\w+|copy|cut|paste|contextmenu|auxclick|canplay\w*|play\w*|show|start|finish)\s*=""",
    re.IGNORECASE,
)
# Where an address may stand, with all white space and entities resolved as a browser does. What it may begin with (`<`)
# is no part of the run after it, and the run gives nothing back: a megabyte of `<` is looked at once, not once for each.
_ADDRESS = re.compile(
    r"""(?:\]\(|\]:|=|<)["'(]*+(?:(?:java|vb|live)script:|data:(?:text/html|application/(?:xhtml|x-|java|ecma)))""",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&#[xX]?[0-9a-fA-F]{17,}")  # the longest that a character has are 7 digits
_FRONT_MATTER = re.compile(r"\A\ufeff?---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the pure-Python one reads the same language, slower
_TIKTOKEN = re.compile(rb"(?:[A-Za-z0-9+/]++={0,2} \d{1,9}\n)*+(?:[A-Za-z0-9+/]+={0,2} \d{1,9})?")


def check_plain(file: Opened) -> None:
    """UTF-8 text without control characters, scripts, keys or a pickle written in letters."""
    checked(file.whole(MAX_BYTES))


def checked(data: bytes) -> str:
    text = decoded(data)
    if found := _CONTROL.search(text):
        raise Denied(f"holds the control character {ord(found.group()):#04x} (character {found.start():,})")
    if text.startswith("#!"):
        raise Denied("a script: its first line says what runs it")
    if _DOCUMENT.match(text):
        raise Denied("a web page or program, whatever its name says")
    if _PRIVATE_KEY.search(text):
        raise Denied("holds a private key")
    if letters.is_pickle(data):
        raise Denied("a pickle written in letters, which can run code when read")
    return text


def check_card(file: Opened) -> None:
    """A model card: its front matter plain YAML, its HTML nothing that acts."""
    text = checked(file.whole(MAX_CARD_BYTES))
    if found := _DIRECTION.search(text):
        raise Denied(f"holds the direction mark U+{ord(found.group()):04X}, which hides what a line says")
    if matter := _FRONT_MATTER.match(text):
        check_yaml(matter.group(1))
    if found := _ENTITY.search(text):
        raise Denied(
            f"holds {shown(found.group()[:20])}, a character's number of more than 16 digits; no character has one"
        )
    addresses = re.sub(r"\s+", "", html.unescape(text))
    if found := _ACTIVE.search(text) or _HANDLER.search(text) or _ADDRESS.search(addresses):
        raise Denied(f"holds active HTML: {shown(found.group())}; a card may only show text and pictures")


def check_yaml_file(file: Opened) -> None:
    check_yaml(checked(file.whole(MAX_CARD_BYTES)))


def check_yaml(text: str) -> None:
    """YAML of plain values: no tags, which make objects, and no aliases, which multiply."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if getattr(event, "anchor", None):  # an alias names its anchor there too
                raise Denied("YAML with an anchor or alias")
            if (tag := getattr(event, "tag", None)) is not None:
                raise Denied(f"YAML with the tag {shown(str(tag))}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise Denied(f"YAML nested deeper than {MAX_YAML_DEPTH} levels")
    except yaml.YAMLError as error:
        raise Denied(
            f"not valid YAML: {shown(str(getattr(error, 'problem', None) or error).split(chr(10))[0])}"
        ) from None


def is_tiktoken(data: bytes) -> bool:
    """Whether a vocabulary is in OpenAI's form: base64 and rank, one token a line."""
    return bool(data) and _TIKTOKEN.fullmatch(data) is not None
