"""What compressing an OpenVINO network needs besides NNCF."""
