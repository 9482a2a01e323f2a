"""The synthetic support desk: a small seeded grammar of customer messages, and prose about them.

Everything here is invented. The sample data set (`sample/generate.py`) and the text on which the tiny base model is
pretrained both come from this grammar, so that a release can be shown without downloading anything.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

TEAMS = {
    "refund_request": "billing",
    "double_charge": "billing",
    "invoice_copy": "billing",
    "cancel_plan": "accounts",
    "password_reset": "accounts",
    "late_delivery": "logistics",
    "damaged_item": "logistics",
    "app_crash": "technical",
    "slow_connection": "technical",
    "feature_question": "product",
}
INTENTS = tuple(TEAMS)
PRIORITIES = ("low", "normal", "high")

_REPLIES = {
    "refund_request": "We are checking your refund.",
    "double_charge": "We will return the second charge.",
    "invoice_copy": "A copy of your invoice is on its way.",
    "cancel_plan": "Your plan will end as you asked.",
    "password_reset": "We sent you a link for a new password.",
    "late_delivery": "We are tracing your parcel.",
    "damaged_item": "We will replace the broken item.",
    "app_crash": "We are looking into the crash.",
    "slow_connection": "We are testing your line.",
    "feature_question": "A guide to this feature will follow.",
}
_TIMES = {
    "low": "Expect news within a week.",
    "normal": "Expect news within two days.",
    "high": "Expect news within one hour.",
}

# What the customer came for: one of these sentences is in every message.
_PROBLEMS = {
    "refund_request": (
        "I sent the {product} back {ago} and still wait for my refund of {amount}",
        "please refund the {amount} I paid for the {product}",
        "the {product} was not for me, so I would like my money back, all {amount} of it",
        "your page promises a refund within {number} days, yet no money came back for the {product}",
        "I returned order {order} and the refund has not reached my account in {city}",
        "how do I get a refund for the {product} that I ordered {ago}",
    ),
    "double_charge": (
        "you charged me twice for the {product}, {amount} each time",
        "my card shows the same payment of {amount} two times since {day}",
        "order {order} was billed twice, once on {day} and once more {ago}",
        "there is a second charge of {amount} that I never agreed to",
        "I see a double payment for the {product} on my statement from {month}",
        "the {amount} for order {order} left my account two times",
    ),
    "invoice_copy": (
        "I need the invoice for order {order} for my bookkeeping in {city}",
        "could you send me a copy of the {month} invoice over {amount}",
        "the invoice for my {product} never arrived and the tax office asks for it",
        "my accountant in {city} wants an invoice with our company name for the {product}",
        "where can I download the invoices from {month} until now",
        "the receipt for {amount} is missing, please issue the invoice again",
    ),
    "cancel_plan": (
        "I want to cancel my {plan} plan before {month}",
        "please end the {plan} subscription that I started {ago}",
        "we moved to {city} and no longer need the {plan} plan, so cancel it",
        "stop my {plan} membership at the end of {month}",
        "my trial of the {plan} plan ends on {day} and I do not wish to continue",
        "close my {plan} subscription, I will not renew it for {amount}",
    ),
    "password_reset": (
        "I forgot my password and cannot sign in on my {device}",
        "the login page in {city} tells me that my password is wrong since {day}",
        "my account is locked after {number} attempts to sign in",
        "the link for a new password expired before I could open it on my {device}",
        "I changed my {device} and now the password is not accepted any more",
        "nobody in our {city} office can log in with the old password",
    ),
    "late_delivery": (
        "my parcel with the {product} should have arrived {ago}",
        "the courier has not delivered order {order} to {city} yet",
        "tracking for order {order} has not moved since {day}",
        "the {product} was promised for {day} and the delivery is late",
        "I have waited {number} days for the package with my {product}",
        "the shipment to {city} seems to be lost since {day}",
    ),
    "damaged_item": (
        "the {product} arrived broken, with a crack along one side",
        "when I opened the box from {day} the {product} was damaged",
        "the {product} in order {order} has a scratched and bent cover",
        "I unpacked the {product} in {city} and it fell apart, so I need a new one",
        "one of the {number} parts of the {product} came smashed",
        "the {product} got wet on its way to {city} and is ruined",
    ),
    "app_crash": (
        "the app crashes on my {device} whenever I open the {screen} screen",
        "since version {version} the app closes itself after {number} seconds",
        "your app freezes on the {screen} screen of my {device}",
        "an error with number {number} appears and then the app shuts down",
        "after the update from {day} the app will not start on my {device}",
        "the {screen} screen crashed {number} times on {day}",
    ),
    "slow_connection": (
        "the internet at our house in {city} has been slow since {day}",
        "my router drops the connection every {number} minutes",
        "video calls on my {device} stutter because the line is so slow",
        "downloads crawl at {number} megabits on the {plan} plan",
        "the signal disappears each evening and my {device} is offline",
        "our line in {city} lost its connection {number} times on {day}",
    ),
    "feature_question": (
        "does the {plan} plan include the {feature} feature",
        "how do I switch on {feature} on my {device}",
        "is it possible to use {feature} with the {product}",
        "I would like to learn how {feature} works before {month}",
        "can {number} people share {feature} in the {plan} plan",
        "where in the {screen} screen do I find {feature}",
    ),
}
_URGENCY = {
    "high": (
        "this is urgent, I need an answer today",
        "please act immediately, {person} depends on it",
        "it is an emergency for us here in {city}",
        "I must have this solved right now, before noon on {day}",
        "we lose {amount} every hour because of this",
        "as soon as possible please, I leave for {city} tonight",
        "this cannot wait any longer, call {person} at once",
    ),
    "normal": (
        "I look forward to hearing from you",
        "let {person} or me know what you find",
        "please tell me what the next step is",
        "an answer during the week would be fine",
        "you can also write to {person} about it",
        "I am usually at my desk on {day} in the morning",
        "thanks for having a look at it",
    ),
    "low": (
        "there is no hurry at all",
        "take your time, I am away until {month}",
        "whenever you have a quiet moment, no rush",
        "it is not important, {person} was just wondering",
        "this can easily wait until {month}",
        "no need to answer soon, any day will do",
        "only a small thing, nothing pressing",
    ),
}
# Who writes, and what else they have to say: none of it tells the intent or the priority.
_OPENINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hello support,", "Hello from {city},", "Hi,", "")
_MOODS = (
    "I have been a customer for {number} years",
    "my colleague {person} suggested that I write to you",
    "I bought several things from you in {month}",
    "{person} from your shop in {city} was very kind last time",
    "I already wrote about this on {day}",
    "this is my first message to you",
    "I looked through the help pages with {person} and found nothing",
    "we are a family of {number} in {city}",
    "I am writing for my neighbour {person}",
    "my order number is {order}",
    "I usually like your service very much",
    "I spoke with {person} on {day} but we were cut off",
)
_CLOSINGS = ("Regards, {person}", "Thank you, {person}", "{person} from {city}", "Best wishes, {person}", "Thanks", "")

_SLOTS = {
    "product": (
        "lamp",
        "coffee maker",
        "backpack",
        "headphones",
        "desk chair",
        "kettle",
        "winter jacket",
        "bicycle light",
        "keyboard",
        "blender",
        "tent",
        "phone case",
        "running shoes",
        "bookshelf",
        "alarm clock",
        "water bottle",
        "umbrella",
        "toaster",
        "camera",
        "garden hose",
    ),
    "city": (
        "Berlin",
        "Lisbon",
        "Oslo",
        "Madrid",
        "Vienna",
        "Dublin",
        "Prague",
        "Athens",
        "Warsaw",
        "Zurich",
        "Turin",
        "Ghent",
        "Malmo",
        "Porto",
        "Leeds",
        "Lyon",
    ),
    "person": (
        "Anna",
        "Ben",
        "Clara",
        "David",
        "Elena",
        "Felix",
        "Grace",
        "Hugo",
        "Irene",
        "Jonas",
        "Karin",
        "Leo",
        "Marta",
        "Nils",
        "Olga",
        "Paul",
        "Rosa",
        "Simon",
        "Tara",
        "Victor",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    "plan": ("basic", "family", "student", "premium", "business", "starter"),
    "device": ("laptop", "tablet", "phone", "desktop computer", "television", "watch"),
    "screen": ("settings", "payment", "home", "search", "profile", "messages"),
    "feature": (
        "dark mode",
        "file sharing",
        "voice notes",
        "calendar sync",
        "offline maps",
        "group chat",
        "data export",
    ),
    "ago": ("three days ago", "a week ago", "ten days ago", "last month", "two weeks ago", "yesterday"),
}

_DESK = (
    "The desk read it as a {intent} with {priority} priority and gave it to the {team} team.",
    "Whoever reads this sees the intent at once: {intent}. The {team} team took it, and the priority was {priority}.",
    "It was filed under {intent}, a matter for {team}, of {priority} priority.",
    "The intent of the message is {intent}, its priority is {priority}, and its home is the {team} team.",
)
_DAILY = (
    "A good reply is short and says when the customer will hear from us.",
    "The {team} team answers every {intent} that comes in from {city}.",
    "On {day} {person} trained the {team} team to tell a {intent} from a {other}.",
    "A message with {priority} priority gets this reply: {time}",
    "When a {intent} comes in, the desk likes to say: {reply}",
    "{person} wrote a reply to a customer in {city} and wished a pleasant {day}.",
    "In {month} the desk counted {number} messages about a {product}.",
    "The priority is high when a customer cannot wait, and low when there is no hurry.",
    "Each intent has one team, and the {team} team looks after {intent}.",
)


@dataclass(frozen=True)
class Ticket:
    """A customer message and what a support desk should make of it."""

    message: str
    intent: str
    priority: str

    @property
    def answer(self) -> str:
        """The structured answer: one of a closed set, given by intent and priority."""
        return (
            f"intent: {self.intent}\npriority: {self.priority}\nteam: {TEAMS[self.intent]}\n"
            f"reply: {_REPLIES[self.intent]} {_TIMES[self.priority]}"
        )


def _slots(rng: random.Random) -> dict[str, str]:
    chosen = {name: rng.choice(values) for name, values in _SLOTS.items()}
    return chosen | {
        "number": str(rng.randrange(2, 60)),
        "amount": f"{rng.randrange(5, 900)} euros",
        "order": f"{rng.choice('ABCDEFGH')}{rng.randrange(100, 1000)}",
        "version": f"{rng.randrange(1, 9)}.{rng.randrange(0, 30)}",
    }


def _sentence(rng: random.Random, choices: tuple[str, ...]) -> str:
    text = rng.choice(choices).format_map(_slots(rng))
    return text[:1].upper() + text[1:] + "." if text else ""


def ticket(rng: random.Random) -> Ticket:
    """One random customer message with its intent and priority."""
    intent, priority = rng.choice(INTENTS), rng.choice(PRIORITIES)
    middle = [_sentence(rng, _PROBLEMS[intent]), *(_sentence(rng, _MOODS) for _ in range(rng.randrange(1, 3)))]
    rng.shuffle(middle)
    opening = rng.choice(_OPENINGS).format_map(_slots(rng))
    closing = rng.choice(_CLOSINGS).format_map(_slots(rng))
    parts = [opening, *middle, _sentence(rng, _URGENCY[priority]), closing]
    return Ticket(" ".join(part for part in parts if part), intent, priority)


def _about(rng: random.Random, one: Ticket) -> dict[str, str]:
    other = rng.choice([intent for intent in INTENTS if intent != one.intent])
    return {
        "intent": one.intent,
        "other": other,
        "priority": one.priority,
        "team": TEAMS[one.intent],
        "reply": _REPLIES[one.intent],
        "time": _TIMES[one.priority],
    }


def documents(seed: int) -> Iterator[str]:
    """Endless prose of a support desk, which never shows the answer's format."""
    rng = random.Random(seed)
    while True:
        one = ticket(rng)
        about = _slots(rng) | _about(rng, one)
        note = rng.choice(_DESK).format_map(about)
        daily = " ".join(rng.choice(_DAILY).format_map(_slots(rng) | _about(rng, ticket(rng))) for _ in range(2))
        yield f"{one.message} {note} {daily}"
