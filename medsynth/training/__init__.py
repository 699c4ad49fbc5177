"""What training needs, whatever the system."""
