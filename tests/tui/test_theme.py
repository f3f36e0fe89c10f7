"""The app's own themes can be read: contrast as WCAG 2 defines it, on every ground that is used."""

import re
from pathlib import Path

import pytest
from textual.color import Color
from textual.theme import Theme

import quietdesk_tui
from quietdesk_tui.markdown import STYLES
from quietdesk_tui.theme import THEMES
from quietdesk_tui.widgets.transcript import Transcript

HOUSE = Path(quietdesk_tui.__file__).parent
SHEETS = sorted(HOUSE.rglob("*.tcss"))
DECORATION = {0, 25, 30, 35}
"""Shares of the foreground in which rules and bars are drawn, never words."""


def luminance(color: Color) -> float:
    """Relative luminance. Source: WCAG 2.2, definition of relative luminance."""
    parts = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in color.normalized
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: Color, other: Color) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def grounds(theme: Theme) -> list[Color]:
    return [Color.parse(value) for value in (theme.background, theme.surface, theme.panel) if value]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_has_a_contrast_of_seven_to_one(theme: Theme) -> None:
    assert theme.foreground is not None
    for ground in grounds(theme):
        assert contrast(Color.parse(theme.foreground), ground) >= 7


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", ["primary", "secondary", "success", "warning", "error"])
def test_colours_that_carry_words_have_a_contrast_of_four_and_a_half_to_one(
    theme: Theme, name: str
) -> None:
    for ground in grounds(theme):
        assert contrast(Color.parse(getattr(theme, name)), ground) >= 4.5


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_quiet_text_has_a_contrast_of_four_and_a_half_to_one(theme: Theme) -> None:
    """Quiet text is the foreground at some share."""
    sources = [*SHEETS, *HOUSE.rglob("*.py")]
    shares = {
        int(share)
        for source in sources
        for share in re.findall(r"\$foreground (\d+)%", source.read_text(encoding="utf-8"))
    }
    assert theme.foreground is not None
    for share in shares - DECORATION:
        for ground in grounds(theme):
            text = ground.blend(Color.parse(theme.foreground), share / 100)
            assert contrast(text, ground) >= 4.5, share


def test_every_style_of_a_line_stands_in_the_style_sheet() -> None:
    sheet = next(sheet for sheet in SHEETS if sheet.name == "transcript.tcss").read_text()
    for name in STYLES:
        assert f"transcript--{name} " in sheet
        assert f"transcript--{name}" in Transcript.COMPONENT_CLASSES
