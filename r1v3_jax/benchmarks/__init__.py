"""The report's benchmarks: rows, prompts, rules, aggregates. Knows no model and no device."""
