"""The client on asyncio: what `diminuendo.client.client` and its neighbours do, without a thread for each call."""
