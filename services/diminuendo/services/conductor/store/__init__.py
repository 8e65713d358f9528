"""The conductor's durable state: jobs, their events and steps, evaluations by key, requests by id."""
