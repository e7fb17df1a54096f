"""ros2 launch monopose_ros monopose.launch.py model:=runs/part image:=/camera/image_raw camera_info:=/camera/camera_info"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

TOPICS = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info"}
PARAMETERS = {  # name -> default and type, as in monopose_ros.node
    "model": ("demo", str),
    "models": ("", str),
    "device": ("", str),
    "min_probability": ("0.5", float),
    "rectified": ("false", bool),
    "track": ("false", bool),
    "cache": ("", str),
    "tf": ("true", bool),
    "tf_prefix": ("", str),
}


def generate_launch_description() -> LaunchDescription:
    defaults = TOPICS | {name: default for name, (default, _) in PARAMETERS.items()}
    arguments = [DeclareLaunchArgument(name, default_value=default) for name, default in defaults.items()]
    node = Node(
        package="monopose_ros",
        executable="monopose",
        name="monopose",
        output="screen",
        parameters=[{n: ParameterValue(LaunchConfiguration(n), value_type=kind) for n, (_, kind) in PARAMETERS.items()}],
        remappings=[(name, LaunchConfiguration(name)) for name in TOPICS],
    )
    return LaunchDescription([*arguments, node])
