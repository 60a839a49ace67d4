"""The trainer's service as protoc writes it from trainer.proto. `make proto` writes it anew."""
