"""What runs are doing, and how to stop one."""
