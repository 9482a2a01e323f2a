"""Is the tuned model better? Answers, their scores, and how sure the scores are."""
