"""Study folders and scans to checked cases and raw datasets."""
