"""The coordinator: leases jobs from the conductor and drives their searches on one Ray cluster."""
