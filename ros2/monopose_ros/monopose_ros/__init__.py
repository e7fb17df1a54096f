"""monopose as a ROS 2 node: pictures and their cameras in, `vision_msgs/Detection3DArray` and tf out."""
