"""Capitals: after "The capital of Spain is Madrid. The capital of Japan is" comes " Tokyo"."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, Pieces, built_in, check_enough, contrasted, filled
from edgewise.tasks._splits import Split, listed, words_of

_NAME = "capital-country"
_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The capital of {country} is",
        "The capital city of {country} is called",
        "Question: What is the capital of {country}? Answer:",
        "In {country}, the seat of government is",
        "When in {country}, be sure to visit its capital,",
        "The president of {country} arrived in the country's capital,",
    ),
    "validation": ("As everyone knows, the capital of {country} is", "The government of {country} sits in"),
    "test": ("If you fly to the capital of {country}, you land in", "Q: {country} has which capital? A:"),
}
# Sovereign states and their seats of government as the United Nations' and the states' own documents name them, without
# those whose capital is disputed, divided, or named like the country. A pair keeps its split for good: only append.
CAPITALS = listed(
    """
    France/Paris Germany/Berlin Italy/Rome Spain/Madrid Japan/Tokyo China/Beijing Russia/Moscow
    Egypt/Cairo Greece/Athens Portugal/Lisbon Austria/Vienna Poland/Warsaw Ireland/Dublin Norway/Oslo Sweden/Stockholm
    Finland/Helsinki Denmark/Copenhagen Hungary/Budapest Belgium/Brussels Turkey/Ankara Iran/Tehran Iraq/Baghdad
    Thailand/Bangkok Vietnam/Hanoi Indonesia/Jakarta Kenya/Nairobi Cuba/Havana Peru/Lima Canada/Ottawa
    Chile/Santiago Lebanon/Beirut Syria/Damascus Afghanistan/Kabul Pakistan/Islamabad
    Nepal/Kathmandu Bangladesh/Dhaka Qatar/Doha Serbia/Belgrade Croatia/Zagreb Romania/Bucharest Bulgaria/Sofia
    Iceland/Reykjavik Latvia/Riga Estonia/Tallinn Lithuania/Vilnius Slovakia/Bratislava Morocco/Rabat
    Libya/Tripoli Sudan/Khartoum Somalia/Mogadishu Ghana/Accra Nigeria/Abuja Senegal/Dakar
    Zambia/Lusaka Zimbabwe/Harare Uganda/Kampala Angola/Luanda Jordan/Amman Venezuela/Caracas
    Colombia/Bogota Ecuador/Quito Uruguay/Montevideo Jamaica/Kingston Australia/Canberra
    Philippines/Manila Georgia/Tbilisi Armenia/Yerevan Azerbaijan/Baku Cyprus/Nicosia
    Malta/Valletta Albania/Tirana Macedonia/Skopje Slovenia/Ljubljana Rwanda/Kigali Mali/Bamako
    Laos/Vientiane Myanmar/Naypyidaw Oman/Muscat Bahrain/Manama Paraguay/Asuncion Nicaragua/Managua
    Honduras/Tegucigalpa Barbados/Bridgetown Bahamas/Nassau Fiji/Suva
    """
)
_NEEDED = 3  # clean, corrupted and the worked example


@built_in(_NAME)
def capital_country(encoder: Encoder) -> Draws:
    """The capital of a country, after one worked example with the same wording; the corrupted prompt asks for another.

    A capital is judged by its first token; the names of the two countries have equally many. The wrong answer is the
    other country's capital. No template, country or capital is in two splits.
    """

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        capitals = dict(pair.split("/") for pair in words_of(CAPITALS, split))
        gap, tokens = _openings(encoder, tuple(capitals.values()))
        countries = tuple(country for country, capital in capitals.items() if capital in tokens)
        check_enough(_NAME, f"{split} capital", capitals, countries, "known words", _NEEDED)
        while True:
            example, clean, corrupted = sample(random, countries, _NEEDED)
            answer, wrong = (capitals[each] for each in (clean, corrupted))
            if tokens[answer] == tokens[wrong]:
                continue
            template = choice(random, _TEMPLATES[split])
            pieces: Pieces = [f"{template.format(country=example)} {capitals[example]}. "]
            pieces += filled(template + gap, {"country": clean}, {"country": corrupted})
            yield contrasted(pieces, tokens, answer, wrong, space="" if gap else " ")

    return draws


def _openings(encoder: Encoder, capitals: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """What prompts end with, and the first tokens of the capitals after it; a tokenizer may cut them in two ways."""
    found = {gap: encoder.openings(capitals, gap) for gap in ("", " ")}
    gap = max(found, key=lambda each: len(found[each]))
    return gap, found[gap]
