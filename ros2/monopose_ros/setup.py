from setuptools import setup

setup(
    name="monopose_ros",
    version="0.1.0",
    packages=["monopose_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/monopose_ros"]),
        ("share/monopose_ros", ["package.xml"]),
        ("share/monopose_ros/launch", ["launch/monopose.launch.py"]),
    ],
    install_requires=["setuptools", "monopose"],
    zip_safe=True,
    maintainer="The monopose authors",
    maintainer_email="maintainer@invalid",
    description="6DoF poses of known objects from one RGB camera",
    license="Apache-2.0",
    entry_points={"console_scripts": ["monopose = monopose_ros.node:main"]},
)
