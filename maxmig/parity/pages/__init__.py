"""A report as files for people and for CI: a page, Markdown, JUnit, and the folder of all."""
