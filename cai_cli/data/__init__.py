"""Reading and writing: strict JSONL, records, transcripts, other people's files."""
