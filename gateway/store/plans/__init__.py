"""Plans in the database: campaigns, schedules and their runs, and the devices that wait for their part."""
