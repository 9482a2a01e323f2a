"""What the tables must say after a chain of events: every row of them is told by one. Pure: no database."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slipway.artifacts import Json
from slipway.ledger.chain import Event

Key = tuple[str, str]  # model, version
_APPROVAL = {
    "approval_given": "valid",
    "approval_rejected": "rejected",
    "approval_revoked": "revoked",
    "approval_expired": "expired",
}


@dataclass
class Expected:
    """The state that events lead to, each part with the event that brought it there."""

    champions: dict[str, Json] = field(default_factory=dict)
    weights: dict[str, Event] = field(default_factory=dict)  # the last that told a model's traffic
    versions: dict[Key, Json] = field(default_factory=dict)
    stages: dict[Key, tuple[str, int]] = field(default_factory=dict)
    states: dict[Key, tuple[str, int]] = field(default_factory=dict)
    holds: dict[Key, int] = field(default_factory=dict)
    approvals: dict[str, tuple[str, int]] = field(default_factory=dict)
    grants: dict[str, tuple[str, int]] = field(default_factory=dict)
    digests: dict[str, tuple[str, int]] = field(default_factory=dict)  # of what approvals and grants are about
    archived: list[tuple[int, Json]] = field(default_factory=list)
    released: dict[int, list[Any]] = field(default_factory=dict)  # event → the checkpoints that a person let go by it
    revoked: dict[str, int] = field(default_factory=dict)  # keys
    erased: set[str] = field(default_factory=set)
    sealed: dict[str, tuple[str, int]] = field(default_factory=dict)  # id → digest, and the first event that names it
    good: dict[str, Event] = field(default_factory=dict)  # the last event after which a model's mirrors were right
    mixed: list[tuple[int, str]] = field(default_factory=list)  # events that name one sealed text by two digests

    def add(self, event: Event) -> None:
        self._texts(event)
        if isinstance(event.payload, dict) and (told := _TOLD.get(event.kind)):
            told(self, event, event.payload)

    def _texts(self, event: Event) -> None:
        for part in (event.actor, event.payload):
            if isinstance(part, dict):
                for value in part.values():
                    if type(value) is dict and "sealed" in value:
                        self._text(value, event.sequence)

    def _text(self, held: Json, sequence: int) -> None:
        name, text = str(held["sealed"]), str(held.get("digest"))
        if self.sealed.setdefault(name, (text, sequence))[0] != text:
            self.mixed.append((sequence, name))

    def _promoted(self, event: Event, payload: Json) -> None:
        names = ("version", "identity", "previous", "generation")
        self.champions[event.model] = {name: payload.get(name) for name in names} | {"sequence": event.sequence}
        self.good[event.model] = self.weights[event.model] = event

    def _traffic(self, event: Event, _: Json) -> None:
        self.weights[event.model] = event

    def _registered(self, event: Event, payload: Json) -> None:
        key = (event.model, _version(event, payload))
        self.versions[key] = payload | {"event": event.sequence}
        self.stages[key], self.states[key] = ("None", event.sequence), ("present", event.sequence)
        self.good[event.model] = event

    def _stage(self, event: Event, payload: Json) -> None:
        self.stages[event.model, _version(event, payload)] = (str(payload.get("to")), event.sequence)
        for name in payload.get("approvals") or []:
            self.approvals[str(name)] = ("used", event.sequence)
        self.good[event.model] = event

    def _state(self, event: Event, payload: Json) -> None:
        now = {"model_archived": "cold", "model_restored": "present", "model_deleted": "deleted"}[event.kind]
        self.states[event.model, _version(event, payload)] = (str(payload.get("state", now)), event.sequence)

    def _held(self, event: Event, payload: Json) -> None:
        self.holds[event.model, _version(event, payload)] = event.sequence

    def _unheld(self, event: Event, payload: Json) -> None:
        self.holds.pop((event.model, _version(event, payload)), None)

    def _approval(self, event: Event, payload: Json) -> None:
        self.approvals[str(payload.get("id"))] = (_APPROVAL[event.kind], event.sequence)
        self._about(event, payload)

    def _grant(self, event: Event, payload: Json) -> None:
        if "id" in payload:
            state = "followed_up" if event.kind == "break_glass_followed_up" else "open"
            self.grants[str(payload["id"])] = (state, event.sequence)
            self._about(event, payload)

    def _about(self, event: Event, payload: Json) -> None:
        if "digest" in payload:
            self.digests[str(payload.get("id"))] = (str(payload["digest"]), event.sequence)

    def _archived(self, event: Event, payload: Json) -> None:
        self.archived.append((event.sequence, payload))

    def _released(self, event: Event, payload: Json) -> None:
        self.released[event.sequence] = list(payload.get("accepted") or [])

    def _key(self, event: Event, payload: Json) -> None:
        if payload.get("change") == "revoked":
            self.revoked[str(payload.get("key"))] = event.sequence

    def _erased(self, _: Event, payload: Json) -> None:
        self.erased.update(str(one) for one in payload.get("ids", []))

    def _repaired(self, event: Event, _: Json) -> None:
        self.good[event.model] = event


def _version(event: Event, payload: Json) -> str:
    return str(payload.get("version", event.subject))


_TOLD: dict[str, Callable[[Expected, Event, dict[str, Any]], None]] = {
    "model_promoted": Expected._promoted,
    "rolled_back": Expected._promoted,
    "traffic_changed": Expected._traffic,
    "model_registered": Expected._registered,
    "stage_transition": Expected._stage,
    "model_archived": Expected._state,
    "model_restored": Expected._state,
    "model_deleted": Expected._state,
    "model_held": Expected._held,
    "model_unheld": Expected._unheld,
    "approval_given": Expected._approval,
    "approval_rejected": Expected._approval,
    "approval_revoked": Expected._approval,
    "approval_expired": Expected._approval,
    "waiver_granted": Expected._grant,
    "break_glass": Expected._grant,
    "break_glass_followed_up": Expected._grant,
    "events_archived": Expected._archived,
    "ledger_released": Expected._released,
    "key_changed": Expected._key,
    "text_erased": Expected._erased,
    "mirror_repaired": Expected._repaired,
}
