"""The benchmark's own tools: a wrong server would make every figure wrong."""
