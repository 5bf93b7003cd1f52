"""All findings of a run under one verdict, as an object, as words, as JSON and as a card."""
