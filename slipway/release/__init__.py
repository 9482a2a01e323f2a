"""The release engine: what is seen of a candidate on live traffic, and what follows from it."""
