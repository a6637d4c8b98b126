"""Tables in, analysis, charts and pages out."""
