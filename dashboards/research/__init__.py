"""The researcher's own form of a sweep: a dated report and the index of reports, in Markdown, English or Korean."""
