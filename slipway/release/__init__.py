"""The release engine: how a candidate takes a champion's place, and how it goes back."""
