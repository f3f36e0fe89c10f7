"""The app's own colours, dark and light; Textual's themes can be chosen too.

Text has a contrast of at least 7 to 1 on its ground, quiet text of at least 4.5 to 1, as WCAG 2
asks for at its levels AAA and AA. One accent, used for what the reader can act on.
"""

from textual.theme import Theme

DARK = Theme(
    name="quietdesk-dark",
    dark=True,
    background="#0e1116",
    surface="#151a21",
    panel="#1d242d",
    foreground="#e3e7ec",
    primary="#6cc4b3",
    secondary="#8db4e2",
    accent="#6cc4b3",
    success="#86cb92",
    warning="#e3b667",
    error="#f08b8f",
    variables={
        "border": "#3d4a57",
        "border-blurred": "#262e38",
        "block-cursor-background": "#24423f",
        "block-cursor-foreground": "#f2f5f7",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#1d242d",
        "block-cursor-blurred-foreground": "#e3e7ec",
        "block-hover-background": "#1a2028",
        "footer-key-foreground": "#6cc4b3",
        "input-cursor-background": "#6cc4b3",
        "input-cursor-foreground": "#0e1116",
        "input-selection-background": "#6cc4b3 30%",
        "screen-selection-background": "#6cc4b3 35%",
        "screen-selection-foreground": "#f2f5f7",
        "scrollbar": "#2c3641",
        "scrollbar-hover": "#3d4a57",
        "scrollbar-active": "#6cc4b3",
        "scrollbar-background": "#0e1116",
        "scrollbar-background-hover": "#0e1116",
        "scrollbar-background-active": "#0e1116",
        "scrollbar-corner-color": "#0e1116",
        "text-muted": "#9aa4b0",
        "text-disabled": "#7e8995",
    },
)

LIGHT = Theme(
    name="quietdesk-light",
    dark=False,
    background="#fcfbf9",
    surface="#f4f2ee",
    panel="#e9e6e0",
    foreground="#1b2026",
    primary="#0a6158",
    secondary="#24528a",
    accent="#0a6158",
    success="#22602f",
    warning="#7a4e00",
    error="#a1201a",
    variables={
        "border": "#a8a399",
        "border-blurred": "#d8d3ca",
        "block-cursor-background": "#d5e8e3",
        "block-cursor-foreground": "#11161b",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e9e6e0",
        "block-cursor-blurred-foreground": "#1b2026",
        "block-hover-background": "#efece6",
        "footer-key-foreground": "#0a6158",
        "input-cursor-background": "#0a6158",
        "input-cursor-foreground": "#fcfbf9",
        "input-selection-background": "#0a6158 22%",
        "screen-selection-background": "#0a6158 22%",
        "screen-selection-foreground": "#11161b",
        "scrollbar": "#d3cec4",
        "scrollbar-hover": "#b3ada2",
        "scrollbar-active": "#0a6158",
        "scrollbar-background": "#fcfbf9",
        "scrollbar-background-hover": "#fcfbf9",
        "scrollbar-background-active": "#fcfbf9",
        "scrollbar-corner-color": "#fcfbf9",
        "text-muted": "#59616b",
        "text-disabled": "#6a727c",
    },
)

THEMES = (DARK, LIGHT)
