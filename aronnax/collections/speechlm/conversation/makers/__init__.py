"""Making conversations: parts of written ones spoken, and questions about recordings that have a transcript."""
