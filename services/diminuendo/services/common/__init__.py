"""What every service shares: settings, logs, errors, process manners. Imports neither torch nor ray."""
