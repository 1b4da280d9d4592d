"""From numbers to one HTML file: pure functions, a template, a style sheet and a script without dependencies."""
