"""Floor 3: the only place that opens image, mesh, table, recipe or report files."""
