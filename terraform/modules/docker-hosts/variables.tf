variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the hosts, which are spread over its zones."
  type        = string
}

variable "name" {
  description = "Prefix of the hosts' names."
  type        = string
}

variable "labels" {
  description = "Labels on the hosts."
  type        = map(string)
  default     = {}
}

variable "pool" {
  description = "Pool that the hosts serve, as the policy's scale sets name it."
  type        = string
}

variable "database" {
  description = "Firestore database."
  type        = string
}

variable "service_account_email" {
  description = "Service account of the hosts. It needs Firestore, and nothing of GitHub's."
  type        = string
}

variable "machine_type" {
  description = "Type of the machines, such as n2-standard-16."
  type        = string
}

variable "hosts" {
  description = "How many."
  type        = number

  validation {
    condition     = var.hosts >= 0 && floor(var.hosts) == var.hosts
    error_message = "hosts: write a whole number."
  }
}

variable "disk_gb" {
  description = "Size of a host's disk, for images and the work of all its runners, in GB."
  type        = number

  validation {
    condition     = var.disk_gb >= 50
    error_message = "disk_gb: a runner's image alone takes several GB: give at least 50."
  }
}

variable "image" {
  description = "Debian image of the machines. What is tested is Debian 12."
  type        = string
}

variable "zones" {
  description = "Zones of the region; Google's choice when empty."
  type        = list(string)

  validation {
    condition     = alltrue([for zone in var.zones : startswith(zone, "${var.region}-")])
    error_message = "zones: ${join(", ", var.zones)} do not all belong to region ${var.region}."
  }
}

variable "subnetwork" {
  description = "Subnetwork with private Google access and a way out, for instance through NAT."
  type        = string
}

variable "runner_range" {
  description = "Range of the runners' bridges, which exists inside each host only. It must not overlap with what hosts reach."
  type        = string

  validation {
    condition     = can(cidrhost(var.runner_range, 0)) && try(tonumber(split("/", var.runner_range)[1]), 32) <= 26
    error_message = "runner_range '${var.runner_range}': write a range of IPv4 addresses, /26 or larger: each runner takes a /29 of it."
  }
}

variable "bucket" {
  description = "Bucket that holds the controller."
  type        = string
}

variable "wheel" {
  description = "Name of the object that is Runyard's wheel."
  type        = string
}

variable "requirements" {
  description = "Name of the object that is requirements/controller.txt."
  type        = string
}
