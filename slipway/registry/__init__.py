"""The second judgement: what the world says, the signature, the model's card, and the receipt of them all."""
