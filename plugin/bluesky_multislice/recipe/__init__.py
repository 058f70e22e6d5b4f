"""All that a person writes: recipe, scan values, refinement, resources, instrument file, addresses of services."""
