"""Reports: pure functions from stored records and published facts to tables; never imports torch."""
