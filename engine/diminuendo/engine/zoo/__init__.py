"""The zoo: networks with weights and data that come with the package."""
