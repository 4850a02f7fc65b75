"""Records become API requests: template, output schema, JSONL files cut at the API's limits."""
