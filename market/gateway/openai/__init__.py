"""The routes that clients of the OpenAI API speak: models, embeddings, chat and text completions."""
