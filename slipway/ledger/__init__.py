"""What happened and who serves: one control database, every change of it in one transaction with the event that tells it."""
