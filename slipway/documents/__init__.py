"""What is written about a model from its evidence alone: the card and the bill of materials."""
