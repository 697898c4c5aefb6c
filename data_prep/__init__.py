"""Data preparation: one package per source, each turned into verl's parquet format with a manifest written last."""
