"""Actions run by real agents."""
