"""Audio for bridgeflow: the modality `audio`, the task `text_to_audio` and the data set `tones`."""
