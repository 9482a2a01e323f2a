"""From raw files to token packs: sources, cleaning, splitting, tokenising."""
