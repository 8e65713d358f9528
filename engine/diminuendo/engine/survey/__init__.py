"""The survey: what every layer is like on the data, and what each form of it would cost and harm."""
