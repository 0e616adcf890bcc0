"""Templates of the indirect-object task.

In each, {A} and {B} are the two people that the first clause introduces, {S} is the one of them who acts, and the
prompt ends where the other one's name must follow. A name never starts a text, so that it always has a space before it
and is the same token everywhere. The wordings are our own, after the form of Wang et al. 2022 (arXiv 2211.00593).

No template is in two splits, whatever the seed (the reason is that of the words, see `_words`).
"""

from edgewise.tasks._splits import Split

IOI_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "When {A} and {B} met at the {place}, {S} handed a {object} to",
        "After {A} and {B} closed the {place} together, {S} gave a {object} to",
        "While {A} and {B} were waiting near the {place}, {S} passed a {object} to",
        "Yesterday {A} and {B} walked to the {place}, and there {S} handed a {object} to",
        "Last week {A} and {B} visited the {place}. {S} handed a {object} to",
        "One morning {A} and {B} sat together at the {place}. {S} showed a {object} to",
        "As {A} and {B} were tidying up the {place}, {S} lent a {object} to",
        "On Sunday {A} and {B} had lunch near the {place}. Afterwards {S} handed a {object} to",
        "Because {A} and {B} were both at the {place}, {S} could give a {object} to",
        "Before {A} and {B} went home from the {place}, {S} handed a {object} to",
        "It was raining when {A} and {B} reached the {place}. {S} handed a {object} to",
        "Two friends, {A} and {B}, were talking outside the {place}. {S} gave a {object} to",
        "Once {A} and {B} had found the {place}, {S} handed a {object} to",
        "The neighbors {A} and {B} were sitting by the {place}, where {S} handed the {object} to",
        "In the evening {A} and {B} met behind the {place}. Then {S} passed a {object} to",
        "During a long day at the {place}, {A} and {B} grew bored, so {S} gave a {object} to",
        "Years ago {A} and {B} worked at the {place}. When they parted, {S} gave a {object} to",
        "Since {A} and {B} were alone at the {place}, {S} quietly slipped a {object} to",
        "The day {A} and {B} came back from the {place}, {S} handed a {object} to",
        "Although {A} and {B} had argued at the {place}, {S} handed a {object} to",
        "This summer {A} and {B} camped near the {place}. One night {S} handed a {object} to",
        "Both {A} and {B} liked the {place}. While they were there, {S} tossed a {object} to",
        "When the {place} opened, {A} and {B} were first in line, and {S} gave a {object} to",
        "We know that {A} and {B} went to the {place} and that {S} delivered a {object} to",
        "As soon as {A} and {B} got to the {place}, {S} handed over a {object} to",
        "Early on Monday {A} and {B} met near the {place}. {S} was kind enough to give a {object} to",
        "In the last scene {A} and {B} are at the {place}. {S} gives a {object} to",
        "Two students, {A} and {B}, ran into each other at the {place}. {S} lent a {object} to",
    ),
    "validation": (
        "At noon {A} and {B} took a break at the {place}, and {S} handed a {object} to",
        "When {A} and {B} bumped into each other outside the {place}, {S} passed the {object} to",
        "Later that day {A} and {B} were alone at the {place}, and {S} offered a {object} to",
        "The twins {A} and {B} spent the weekend at the {place}. {S} gave a {object} to",
        "While {A} and {B} were cleaning the {place}, {S} handed a {object} to",
        "Tired after a day at the {place}, {A} and {B} sat down, and {S} gave the {object} to",
        "Some time after {A} and {B} met at the {place}, {S} lent a {object} to",
        "People say that {A} and {B} met at the {place} and that {S} gave a {object} to",
    ),
    "test": (
        "Then {A} and {B} had a great time at the {place}, and {S} handed a {object} to",
        "Last night {A} and {B} went to the {place} for a walk. {S} handed a {object} to",
        "While {A} and {B} were having a chat by the {place}, {S} gave the {object} to",
        "After a long trip {A} and {B} arrived at the {place}. {S} wanted to give a {object} to",
        "Having met at the {place}, {A} and {B} became friends, and {S} offered a {object} to",
        "Somewhere near the {place}, {A} and {B} met again, and {S} passed a {object} to",
        "In the story, {A} and {B} meet at the {place}, and {S} gives a {object} to",
        "In spring {A} and {B} often came to the {place}. One day {S} showed the {object} to",
    ),
}

# One fixed template, in the spirit of the single-template set of Conmy et al. 2023 (arXiv 2304.14997).
IOI_T1_TEMPLATE = "At the old station {A} and {B} shared a bench, and {S} handed a mango to"
