"""What tests hold the product against: slow references, and recordings made up for the purpose."""
